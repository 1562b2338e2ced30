"""The one thread that runs the model.

MLX streams belong to threads: an array built lazily on one thread and evaluated on another raises
``There is no Stream``, while an evaluated array crosses freely. A widget's callback may run on
any thread, and a notebook's cell should return at once. So everything that computes is a job for
one daemon thread; callers queue jobs and read their events. Cancelling only sets a flag, which the
job checks between tokens.

    job = engine().submit(stream, model, "Hello")     # returns at once
    for event in job.events(): ...                    # Progress, Token, ..., Finish
    job.cancel()                                      # from any thread, done within a token

Several widgets share the thread fairly. Jobs that are generators take turns; a turn lasts until the
next event (a token, a chunk of a prompt), and the job that has run for the least time goes next, so
a short answer does not wait for a long prompt of somebody else. A plain function cannot be
interrupted, so it waits until everything submitted before it has ended. Each job runs in a context
of its own (``contextvars``): the taps and interventions of one do not affect another.
"""

import atexit
import contextvars
import inspect
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

from ..errors import GenerationError
from ..model.taps import begin_job

_DONE = object()  # ends a job's event queue
_current: contextvars.ContextVar["Job | None"] = contextvars.ContextVar("job", default=None)


class Job:
    """A function that runs on the engine's thread, or is queued for it.

    If the function is a generator, the values it yields are the job's events and the value it
    returns is the job's result. If it takes an argument named ``cancel``, it gets the job's
    :class:`threading.Event` there and is expected to finish by itself soon after it is set (it may
    still yield a last event); any other generator is closed at its next yield.
    """

    def __init__(self, fn: Callable, args: tuple, kwargs: dict):
        self._fn, self._args = fn, args
        self._cooperates = _takes_cancel(fn)
        flag = kwargs.get("cancel")
        self.cancel_event: threading.Event = flag if flag is not None else threading.Event()
        self._kwargs = {**kwargs, "cancel": self.cancel_event} if self._cooperates else kwargs
        self._events: queue.SimpleQueue = queue.SimpleQueue()
        self._finished = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None
        self._inline: Iterator | None = None
        self.takes_turns = inspect.isgeneratorfunction(_unwrapped(fn))
        self._cache = kwargs.get("cache")
        self._turns: Iterator | None = None
        self._context: contextvars.Context | None = None
        self._spent = self._last = 0.0  # seconds it has run, and when its last turn ended

    def cancel(self) -> None:
        """Ask the job to stop; returns at once. A job that is done is not changed."""
        self.cancel_event.set()

    @property
    def cancelled(self) -> bool:
        return self.cancel_event.is_set()

    @property
    def done(self) -> bool:
        return self._finished.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job has ended, successfully or not; False if ``timeout`` s pass before."""
        if self._inline is not None:
            for _ in self._inline:
                pass
        return self._finished.wait(timeout)

    def result(self, timeout: float | None = None) -> Any:
        """The function's return value. Raises what the job raised, ``TimeoutError`` if it is not
        done in time, ``CancelledError`` if it was cancelled before it began.

        Interrupting the wait (Ctrl-C) cancels the job.
        """
        try:
            if not self.wait(timeout):
                raise TimeoutError(f"The job was not done after {timeout:g} s.")
        except KeyboardInterrupt:
            self._abandon()
            raise
        if self._error is not None:
            raise self._error
        return self._value

    def events(self) -> Iterator:
        """The job's events as they come; ends with the job, and raises what it raised.

        Leaving the loop early, by ``break`` or by Ctrl-C, cancels the job and waits for it to
        put its cache in order. Each event is read once.
        """
        try:
            if self._inline is not None:
                yield from self._inline
            else:
                while (event := self._events.get()) is not _DONE:
                    yield event
                self._events.put(_DONE)  # a later reader finds the end, too
        except BaseException:
            self._abandon()
            raise
        if self._error is not None:
            raise self._error

    def _abandon(self) -> None:
        self.cancel()
        if self._inline is not None:
            self._inline.close()
        self._finished.wait()

    # The rest runs on the engine's thread.

    def _turn(self) -> None:
        """Go on to the next event."""
        if self._turns is None:
            self._turns, self._context = self._steps(), contextvars.copy_context()
            self._context.run(self._begin)
        began = time.perf_counter()
        event = self._context.run(next, self._turns, _DONE)
        self._last = time.perf_counter()
        self._spent += self._last - began
        if event is _DONE:
            self._turns = self._context = self._cache = None
        self._events.put(event)

    def _begin(self) -> None:
        """Called once in the job's context, before its first turn."""
        begin_job()
        _current.set(self)

    def _may_begin(self, earlier: list["Job"]) -> bool:
        """Whether the job may run beside those submitted before it that have not ended."""
        if not self.takes_turns:
            return not earlier
        return self._cache is None or all(self._cache is not job._cache for job in earlier)

    def _steps(self) -> Iterator:
        """Run to the end, yielding events; keeps the error instead of raising it."""
        try:
            if self.cancelled and not self._cooperates:
                raise CancelledError("The job was cancelled before it began.")
            value = self._fn(*self._args, **self._kwargs)
            if inspect.isgenerator(value):
                self.takes_turns = True
                value = yield from self._iterate(value)
            self._value = value
        except GeneratorExit:
            raise
        except BaseException as error:
            self._error = error
        finally:
            self._fn = self._args = self._kwargs = None  # a job that is kept keeps no model alive
            self._finished.set()

    def _iterate(self, generator):
        try:
            while True:
                try:
                    event = next(generator)
                except StopIteration as end:
                    return end.value
                yield event
                if self.cancelled and not self._cooperates:
                    return None
        finally:
            generator.close()


class Engine:
    """A daemon thread that runs jobs in fair turns. Use the shared one, :func:`engine`."""

    def __init__(self):
        self._arriving: queue.SimpleQueue = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._jobs: tuple[Job, ...] = ()  # not ended, in the order they came
        self._closed = False

    def submit(self, fn: Callable, *args, **kwargs) -> Job:
        """Queue ``fn(*args, **kwargs)``.

        Called from the engine's own thread, it runs the function at once instead (a generator then
        advances as its events are read), because the thread cannot wait for itself. Generators
        that are given the same ``cache=`` run one after another.

        Raises GenerationError while the interpreter shuts down.
        """
        job = Job(fn, args, kwargs)
        if self.on_engine_thread():
            steps = job._steps()
            if job.takes_turns:
                job._inline = steps
            else:
                for event in steps:
                    job._events.put(event)
                job._events.put(_DONE)
            return job
        with self._lock:
            if self._closed:
                raise GenerationError("The engine is closed: the interpreter is shutting down.")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="gemma4-mlx", daemon=True)
                self._thread.start()
            self._arriving.put(job)
        return job

    def run(self, fn: Callable, *args, **kwargs) -> Any:
        """Submit and wait for the result.

        Raises GenerationError while the interpreter shuts down, and whatever the function raises.
        """
        return self.submit(fn, *args, **kwargs).result()

    def on_engine_thread(self) -> bool:
        return threading.current_thread() is self._thread

    @property
    def busy(self) -> bool:
        return not self._arriving.empty() or not all(job.done for job in self._jobs)

    def close(self, timeout: float = 5.0) -> None:
        """Cancel what runs and is queued, and wait until it has stopped; called when the
        interpreter exits.

        The thread itself is left waiting for jobs: when a thread that ran a model has ended,
        MLX's CPU backend aborts the process on its way out ("terminate called without an active
        exception", MLX 0.32).
        """
        with self._lock:
            self._closed = True
            thread, jobs = self._thread, self._jobs
        if thread is None or not thread.is_alive():
            return
        for job in jobs:
            job.cancel()
        idle = threading.Event()
        self._arriving.put(idle)
        idle.wait(timeout)

    def _work(self) -> None:
        import mlx.core as mx

        from .wired import kept_in_place

        closing = []
        with mx.stream(mx.new_thread_local_stream(mx.default_device())):
            while True:
                self._arrive(self._arriving.get(), closing)
                with kept_in_place():
                    while self._jobs:
                        self._one_turn()
                        while not self._arriving.empty():
                            self._arrive(self._arriving.get(), closing)
                for idle in closing:
                    idle.set()

    def _one_turn(self) -> None:
        job = self._next()
        job._turn()
        if job.done:
            self._jobs = tuple(other for other in self._jobs if other is not job)

    def _arrive(self, job: Job | threading.Event, closing: list) -> None:
        if isinstance(job, threading.Event):  # from close(): to be set when nothing runs
            closing.append(job)
            if not self._jobs:
                job.set()
            return
        # A new job starts with the least time that any other has had: its first turn comes next,
        # but it does not hold up the others until it has run for as long as they have.
        job._spent = min((other._spent for other in self._jobs), default=0.0)
        self._jobs = (*self._jobs, job)
        if self._closed:
            job.cancel()

    def _next(self) -> Job:
        """Whose turn it is: cancelled jobs first, then functions, then the one that ran least."""
        able = [job for i, job in enumerate(self._jobs) if job._may_begin(self._jobs[:i])]
        return min(
            able, key=lambda job: (not job.cancelled, job.takes_turns, job._spent, job._last)
        )


def current_job() -> Job | None:
    """The job that this code runs in; None outside of the engine."""
    return _current.get()


_engine: Engine | None = None
_engine_lock = threading.Lock()


def engine() -> Engine:
    """The process's engine. A forked child gets a fresh one: threads do not survive a fork."""
    global _engine
    with _engine_lock:
        if _engine is None:
            _engine = Engine()
            atexit.register(_engine.close)
        return _engine


def run_on_engine(fn: Callable, *args, **kwargs) -> Iterator:
    """Run a generator function on the engine and yield its events here.

    ``yield from`` gives its return value. Ctrl-C or leaving the loop cancels it.
    """
    job = engine().submit(fn, *args, **kwargs)
    yield from job.events()
    return job.result()


def _forget_engine() -> None:
    global _engine, _engine_lock
    _engine, _engine_lock = None, threading.Lock()


def _unwrapped(fn: Callable) -> Callable:
    while hasattr(fn, "func"):  # functools.partial
        fn = fn.func
    return inspect.unwrap(fn)


def _takes_cancel(fn: Callable) -> bool:
    try:
        return "cancel" in inspect.signature(fn).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_engine)
