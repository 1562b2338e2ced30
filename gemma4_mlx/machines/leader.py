"""Rank 0 of a cluster: leads the other machines, watches them, and ends them with itself."""

import os
import queue
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import mlx.core as mx

from ..checkpoints.machine import this_machine
from ..errors import ClusterError
from ..model.parallel import Together, refuse_tracing
from .leading import LedModel, LedTaps
from .messages import Channel, Message, plain_socket

if TYPE_CHECKING:
    from mlx._distributed_utils.launch import RemoteProcess

#: Seconds between two questions to a machine how it is.
ASKED_EVERY = 1.0
#: Seconds without any answer after which a machine counts as hanging.
SILENT = 20.0
#: Seconds in which what was lost has a name.
NAMED_WITHIN = 30.0
#: Seconds in which the end of a machine's process is known, after another one has noticed it.
ANOTHER = 5.0


@dataclass
class Member:
    """A machine that follows.

    Attributes:
        rank, host: which one.
        room: bytes that a model may take there.
        channel: the connection to it.
        process: MLX's handle of the process that was started there; None if the user started it.
        status: what it told last: ``memory`` bytes in MLX's arrays, ``doing`` what.
        heard: when that was.
        last_lines: the last lines of what it printed.
    """

    rank: int
    host: str
    room: int = 0
    channel: Channel | None = None
    process: "RemoteProcess | None" = None
    status: dict = field(default_factory=dict)
    heard: float = field(default_factory=time.monotonic)
    last_lines: deque = field(default_factory=lambda: deque(maxlen=15))
    answers: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host})"


class Cluster:
    """Machines that compute one model together: ``g4.load(name, cluster=...)``.

    Made by :func:`gemma4_mlx.cluster`. Shows each rank's memory and health; :meth:`close` or the
    kernel's end ends the others. Also a context manager.

    Attributes:
        together: MLX's group, and what was sent through it.
        members: the other machines.
    """

    def __init__(self, together: Together, members: list[Member], ring: list[tuple[str, int]]):
        self.together, self.members = together, members
        self._ring = ring
        self._inside = False
        self._lock, self._losing = threading.RLock(), threading.Lock()
        self._lost: str | None = None
        self._closed = threading.Event()
        self._forgotten: deque = deque()
        together.call_all, together.watched = self._call_all, self._watched
        for member in members:
            threading.Thread(target=self._listen, args=(member,), daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def size(self) -> int:
        """How many machines there are, this one included."""
        return self.together.size

    # Leading

    def load(self, path_or_repo, strategy: str, **how) -> LedModel:
        """Load a model, each machine its part: :func:`gemma4_mlx.load` with ``cluster``.

        Raises ClusterError if a machine is lost or found another checkpoint, and what loading
        raises here.
        """
        from ..checkpoints.find import named_in_environment
        from ..checkpoints.loading import load_part

        if strategy not in ("tensor", "pipeline"):
            raise ClusterError(f"strategy is {strategy!r}; expected 'tensor' or 'pipeline'")
        room = None
        if strategy == "pipeline":
            room = [this_machine().usable, *(member.room for member in self.members)]
        if path_or_repo is None:
            path_or_repo = named_in_environment()
        told = how | {"dtype": None if how["dtype"] is None else _name(how["dtype"])}
        path = None if path_or_repo is None else str(path_or_repo)
        with self._lock:
            self._check()
            self._tell(Message("load", {"path_or_repo": path, "room": room, "how": told}))
            problem = None
            try:
                model = LedModel.of(load_part(self.together, path_or_repo, room, **how), self)
            except (Exception, KeyboardInterrupt) as error:
                problem = error
            answers = [(member, self._answer(member)) for member in self.members]
            if problem is None:
                problem = self._difference(model, answers)
            self._tell(Message("keep", {"model": None if problem else model.number}))
        if problem is not None:
            raise problem
        return model

    def _difference(self, model, answers: list) -> ClusterError | None:
        """What is wrong with the others' parts of a model."""
        for member, answer in answers:
            if answer.what == "failed":
                return ClusterError(f"{member} could not load the model: {answer.values['error']}")
            if answer.values["fingerprint"] != model.fingerprint:
                return ClusterError(
                    f"{member} found another checkpoint: give all machines the same files"
                )
        return None

    def _answer(self, member: Member) -> Message:
        """The next answer of a machine. Raises ClusterError if it is lost before."""
        while True:
            with suppress(queue.Empty):
                return Message.unpacked(member.answers.get(timeout=0.2))
            self._check()

    @contextmanager
    def running(self, message: Message, taps: LedTaps | None = None) -> Iterator[None]:
        """Have all machines do what a message says while this one does it in the ``with`` block.

        Raises ClusterError, naming it, if a machine is lost meanwhile, and what ``taps`` kept.
        """
        data = message.packed()
        with self._lock, _uninterrupted():
            self._check()
            if self._inside:
                raise ClusterError(
                    "a model on several machines computes nothing within its own run: observers "
                    "that use its head (a lens) or run it need it whole, without cluster="
                )
            self._flush()
            self._send(data)
            self._inside = True
            try:
                with self.together.running():
                    yield
            except BaseException as error:
                # A lost machine fails whatever waits for it, in MLX's words.
                if isinstance(error, ClusterError) or "[ring]" in str(error):
                    raise self._blame(error) from None
                self._lose(f"rank 0 failed while it computed: {error!r:.200}")
                raise
            finally:
                self._inside, raised = False, None
                if taps is not None:
                    raised, taps.raised = taps.raised, None
            if raised is not None:
                raise raised

    def _call_all(self, what: str, x: mx.array, function: Callable) -> mx.array:
        refuse_tracing(x)
        number = function.__self__.model_number
        with self.running(Message("call", {"model": number, "name": what}, {"x": x})):
            return function(x)

    def _watched(self, rank: int) -> Iterator[tuple[str, mx.array, bool]]:
        """What a layer of another machine shows: name, value, and whether with a geometry."""
        while (message := self._answer(self.members[rank - 1])).what != "shown":
            yield message.values["name"], message.arrays["value"], message.values["placed"]

    def tell(self, message: Message, only: int | None = None) -> None:
        """Send a message to all machines, or to one rank, in the order of what is computed."""
        with self._lock:
            if not self.over:
                self._flush()
                self._tell(message, only)

    def forget(self, kind: str, key) -> None:
        """Have the others drop what nobody here holds any more. From any thread, at any moment, so
        that it is only noted: it goes out with the next message."""
        self._forgotten.append((kind, key))

    def _flush(self) -> None:
        dropped = []
        while self._forgotten:
            dropped.append(self._forgotten.popleft())
        if dropped:
            self._tell(Message("drop", {"dropped": dropped}))

    def _tell(self, message: Message, only: int | None = None) -> None:
        self._send(message.packed(), only)

    def _send(self, data: bytes, only: int | None = None) -> None:
        for member in self.members:
            if only not in (None, member.rank):
                continue
            try:
                member.channel.send(data)
            except ClusterError:
                raise self._blame(ClusterError(f"{member} is gone")) from None

    # Watching

    def _check(self) -> None:
        """Raises ClusterError once a machine was lost, or the cluster was closed."""
        if self._lost is not None:
            raise ClusterError(self._lost)
        if self._closed.is_set():
            raise ClusterError("this cluster was closed: start another with g4.cluster(...)")

    def _blame(self, error: Exception) -> ClusterError:
        """The error that names the machine that was lost, for one that noticed it first."""
        self._wait_for_a_name(NAMED_WITHIN)
        self._lose(str(error))
        return ClusterError(self._lost)

    def _wait_for_a_name(self, seconds: float) -> None:
        """Return once it is known which machine was lost, or after so long."""
        end = time.monotonic() + seconds
        while self._lost is None and time.monotonic() < end:
            time.sleep(0.05)

    def _listen(self, member: Member) -> None:
        """Reads what a machine says; in a thread of its own."""
        while (data := member.channel.receive()) is not None:
            member.heard = time.monotonic()
            if Message.is_named(data, "status"):
                member.status = dict(Message.unpacked(data).values)
            elif Message.is_named(data, "lost"):
                told = Message.unpacked(data).values
                if told["by_another"]:  # who lost its neighbour is not the one to blame
                    self._wait_for_a_name(ANOTHER)
                self._lose(f"{member} failed: {told['error']}")
            else:
                member.answers.put(data)  # its arrays are made where they are used
        if not self._closed.is_set():
            self._lose(f"{member} is gone{_how_it_ended(member)}")

    def _watch(self) -> None:
        """Asks every machine how it is; in a thread of its own."""
        ask = Message("status").packed()
        while not self._closed.wait(ASKED_EVERY) and self._lost is None:
            for member in self.members:
                if time.monotonic() - member.heard > SILENT:
                    self._lose(f"{member} has not answered for {SILENT:.0f} s: it hangs")
                    return
                with suppress(ClusterError):  # the listener finds out why
                    member.channel.send(ask, patient=False)

    def _lose(self, why: str) -> None:
        """A machine is lost: say which, release the others and whoever waits for it here."""
        with self._losing:
            if self._lost is not None or self._closed.is_set():
                return
            self._lost = (
                f"{why}. The other machines were released; start again with g4.cluster(...) and "
                "g4.load(..., cluster=...)"
            )
        self._end()

    def _end(self) -> None:
        """End the other machines, and what is under way here."""
        for member in self.members:
            member.channel.close()
        self._cut()
        ends = [threading.Thread(target=end_process, args=(m,), daemon=True) for m in self.members]
        for end in ends:
            end.start()
        for end in ends:  # ssh to a machine that is off waits for long
            end.join(5)

    def _cut(self) -> None:
        """Close this process's connections of MLX's ring, so that what waits there fails at once.
        MLX has no call for it; a connection of the ring is told by its two addresses."""
        for name in os.listdir("/dev/fd"):
            with suppress(OSError, ValueError), plain_socket(int(name)) as one:
                if {one.getsockname()[:2], one.getpeername()[:2]} & set(self._ring):
                    one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the other machines; what they held of models is gone."""
        if self._closed.is_set():
            return
        self._closed.set()
        with suppress(ClusterError):
            self._tell(Message("end"))
        self._end()
        forget_group()

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # Showing

    def ranks(self) -> list[dict]:
        """Of each rank: ``rank``, ``host``, ``memory`` (bytes in MLX's arrays), ``doing``."""
        own = {"rank": 0, "host": "this kernel", "memory": mx.get_active_memory(), "doing": ""}
        found = [own]
        for member in self.members:
            silent = time.monotonic() - member.heard
            doing = member.status.get("doing", "")
            if self._closed.is_set() or self._lost is not None:
                doing = "released"
            elif silent > 3 * ASKED_EVERY:
                doing = f"silent for {silent:.0f} s"
            memory = member.status.get("memory", 0)
            found.append(dict(rank=member.rank, host=member.host, memory=memory, doing=doing))
        return found

    @property
    def over(self) -> bool:
        """Whether it was closed, or a machine lost."""
        return self._closed.is_set() or self._lost is not None

    @property
    def lost(self) -> str | None:
        """Which machine was lost and how; None while all are there."""
        return self._lost

    def __repr__(self) -> str:
        lines = [f"Cluster of {self.size}" + (f": {self._lost}" if self._lost else "")]
        lines += [
            f"  rank {r['rank']}  {r['host']:<20} {r['memory'] / 1e9:7.2f} GB  {r['doing']}"
            for r in self.ranks()
        ]
        return "\n".join(lines)


def _name(dtype: str | mx.Dtype) -> str:
    return str(dtype).removeprefix("mlx.core.")


def _how_it_ended(member: Member) -> str:
    """What is known of how a process ended, as the end of a sentence."""
    if member.process is None:
        return ""
    with suppress(Exception):
        member.process.process.wait(2)
    code = member.process.process.poll()
    lines = [line for line in member.last_lines if not line.startswith("[ring]")]
    told = f": {lines[-1]}" if lines else ""
    if code is None:
        return told
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f", its process {how}{told}"


def end_process(member: Member) -> None:
    """End the process of a machine, by MLX's own means, and for good."""
    if member.process is None:
        return
    with suppress(Exception):  # ssh may fail: the other end ends by itself without its connection
        member.process.process.wait(1)
    if member.process.process.poll() is None:
        with suppress(Exception):
            member.process.process.kill()
    with suppress(Exception):
        member.process.terminate()


def forget_group() -> None:
    """Have MLX make a new group at the next ``mx.distributed.init``. It keeps one for as long as a
    process lives, and its function for this is not among Python's."""
    import ctypes
    from pathlib import Path

    home = Path(mx.__file__).parent / "lib"
    with suppress(OSError, AttributeError, StopIteration):
        library = ctypes.CDLL(str(next(home.glob("libmlx.*"))))
        library._ZN3mlx4core11distributed14clear_backendsEv()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the block is left: the other machines cannot leave it early."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
        if came:
            raise KeyboardInterrupt
