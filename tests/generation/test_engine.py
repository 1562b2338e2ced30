"""The one thread that runs the model."""

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from concurrent.futures import CancelledError
from functools import partial
from types import SimpleNamespace

import mlx.core as mx
import pytest
from waiting import PATIENCE, interrupt, until

import gemma4_mlx as g4
from gemma4_mlx.errors import GenerationError
from gemma4_mlx.generation import Finish, PromptCache, Token, engine, run_on_engine, stream
from gemma4_mlx.generation.engine import Engine, current_job

PROMPT = [2, *range(400, 440)]
LONG = {"max_tokens": 3000, "ignore_eos": True}
SHORT = {"max_tokens": 6, "ignore_eos": True}


def count(n, delay=0.0):
    for i in range(n):
        time.sleep(delay)
        yield i
    return "counted"


def test_results_events_and_errors_reach_the_caller():
    job = engine().submit(lambda a, b=1: a + b, 2, b=3)
    assert job.result() == 5 and job.done and list(job.events()) == []
    job = engine().submit(count, 3)
    assert list(job.events()) == [0, 1, 2] and job.result() == "counted"
    assert list(job.events()) == []

    def fails():
        yield 1
        raise ValueError("inside")

    job = engine().submit(fails)
    got = []
    with pytest.raises(ValueError, match="inside"):
        got.extend(event for event in job.events())
    with pytest.raises(ValueError, match="inside"):
        job.result()
    assert engine().run(lambda: "still alive") == "still alive"
    late = threading.Event()
    job = engine().submit(late.wait)
    with pytest.raises(TimeoutError):
        job.result(timeout=0.05)
    late.set()


def test_arrays_are_made_on_one_thread_and_read_on_another():
    def compute():
        x = mx.ones((4,)) * 3
        mx.eval(x)
        return x

    assert (engine().run(compute) + 1).sum().item() == 16
    threads = {engine().run(threading.get_ident) for _ in range(3)}
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_jobs_run_in_the_order_they_came():
    log = []
    jobs = [engine().submit(lambda i=i: log.append(i)) for i in range(20)]
    for job in jobs:
        job.result()
    assert log == list(range(20))
    assert not engine().busy


def test_cancelling():
    first = engine().submit(count, 10**9, delay=0.001)
    queued = engine().submit(time.sleep, 10**9)
    queued.cancel()
    assert next(first.events()) == 0
    first.cancel()
    assert first.wait(PATIENCE)
    with pytest.raises(CancelledError):
        queued.result()


def test_a_stream_says_goodbye_when_cancelled(tiny):
    job = engine().submit(stream, tiny(), PROMPT, options=LONG)
    for event in job.events():
        if isinstance(event, Token) and event.index == 4:
            job.cancel()
    assert isinstance(event, Finish) and event.reason == "cancelled"
    job = engine().submit(stream, tiny(), PROMPT, options=LONG)
    job.cancel()
    assert list(job.events())[-1].reason == "cancelled"


def test_several_readers_share_the_model(tiny):
    model, results = tiny(), {}

    def widget(name):
        results[name] = ids(run_on_engine(stream, model, PROMPT, options=SHORT))

    threads = [threading.Thread(target=widget, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    want = ids(stream(model, PROMPT, options=SHORT))
    assert list(results.values()) == [want] * 4


def ids(events):
    return [event.id for event in events if isinstance(event, Token)]


def test_generators_take_turns_by_the_time_they_have_had(monkeypatch):
    """A job of short steps is done within a few long steps of another."""
    log, now, go = [], [0.0], threading.Event()
    clock = SimpleNamespace(perf_counter=lambda: now[0])  # a step takes what it says, exactly
    monkeypatch.setattr(sys.modules[engine.__module__], "time", clock)

    def steps(name, n, seconds):
        for i in range(n):
            assert go.wait(PATIENCE)
            now[0] += seconds
            log.append(name)
            yield i

    slow = engine().submit(steps, "slow", 10**9, 0.03)  # waits in its first step
    quick = engine().submit(steps, "quick", 20, 0.001)
    go.set()
    assert quick.wait(PATIENCE) and not slow.done
    go.clear()
    done = len(log) - log[::-1].index("quick")
    assert log[:done].count("slow") < 4  # and not one step of each in turn
    also = [engine().submit(steps, str(i), 5, 0.01) for i in range(3)]
    go.set()
    assert all(job.wait(PATIENCE) for job in also)
    first = [log.index(str(i)) for i in range(3)]
    assert max(first) - min(first) < 8  # all three have begun before one has had it all
    slow.cancel()
    assert slow.wait(PATIENCE)


def test_what_waits_for_what():
    """A function runs when all before it has ended, and so does a generator for its cache."""
    log, cache, go = [], object(), threading.Event()

    def on(cache, name, n):
        for _ in range(n):
            assert go.wait(PATIENCE)
            yield log.append(name)

    first = engine().submit(on, cache=cache, name="first", n=3000)
    function = engine().submit(log.append, "function")
    second = engine().submit(on, cache=cache, name="second", n=1)
    other = engine().submit(on, cache=object(), name="other", n=1)
    go.set()
    assert other.wait(PATIENCE) and function.wait(PATIENCE) and second.wait(PATIENCE)
    assert first.done and log.index("other") < 30 and log[-2:] == ["function", "second"]


def test_a_short_question_does_not_wait_for_a_long_prompt(tiny, monkeypatch):
    # The engine's own time, without what a busy machine gives to others.
    clock = SimpleNamespace(perf_counter=time.thread_time)
    monkeypatch.setattr(sys.modules[engine.__module__], "time", clock)
    model, long = tiny(), [2, *(300 + i % 900 for i in range(1000))]
    how = {"options": SHORT, "prefill_chunk": 64}
    want = [ids(stream(model, prompt, **how)) for prompt in (long, PROMPT)]
    caches = [PromptCache(model), PromptCache(model)]
    asked, ended = threading.Event(), []

    def read(prompt, cache):
        """The long prompt waits after its second event until the question is there."""
        for i, event in enumerate(stream(model, prompt, cache=cache, **how)):
            yield event
            if i == 1:
                assert asked.wait(PATIENCE)
        ended.append(prompt)

    events = engine().submit(read, long, cache=caches[0]).events()
    begun = [next(events), next(events)]
    quick = engine().submit(read, PROMPT, cache=caches[1])
    asked.set()
    assert ids(quick.events()) == want[1] and ids([*begun, *events]) == want[0]
    assert ended == [PROMPT, long], "the long prompt was read to its end first"
    for cache, prompt in zip(caches, (long, PROMPT)):
        assert {entry.offset for entry in cache.entries} == {len(cache.tokens)}
        *_, again = run_on_engine(stream, model, cache.tokens, cache=cache, **how)
        assert again.reused_tokens >= len(prompt)


def test_what_a_job_observes_and_changes_is_its_own(tiny):
    """An answer under way, one under an intervention and a trace, in turns on one model."""
    model = tiny("moe")
    change = g4.Steer(2, mx.ones((model.config.text.hidden_size,)), 3.0)
    some = {"max_tokens": 60, "ignore_eos": True}
    plain = ids(stream(model, PROMPT, options=some))
    with model.intervene(change):
        changed = ids(stream(model, PROMPT, options=some))
    alone = g4.trace(model, PROMPT, chunk=8)
    assert plain != changed

    def begin():
        events = engine().submit(stream, model, PROMPT, options=some).events()
        next(events)
        return events

    answers = [begin()]
    with model.intervene(change):
        answers.append(begin())
        assert model.interventions == (change.key,)
    answers.append(begin())
    beside = g4.trace(model, PROMPT, chunk=8)
    assert [ids(events) for events in answers] == [plain, changed, plain]
    assert (beside.routing.experts == alone.routing.experts).all()
    assert beside.interventions == () == model.interventions and not model._taps.active


def test_a_finished_job_keeps_nothing_alive():
    """Neither in the hands of who asked for it, nor on the engine's thread while that waits."""

    class Held:
        pass

    def steps(given, cache):
        yield 1

    def call(given, cache):
        return "done"

    for fn in (steps, call):
        given, cache = Held(), Held()
        gone = [weakref.ref(given), weakref.ref(cache)]
        job = engine().submit(fn, given, cache=cache)
        assert job.wait(PATIENCE)
        list(job.events())
        del given, cache
        engine().run(lambda: None)  # the thread has turned to something else
        gc.collect()
        assert [ref() for ref in gone] == [None, None] and job.done
    job = engine().submit(Held)
    gone = weakref.ref(job.result())
    del job
    until(lambda: gone() is None)  # nothing else is asked of the thread meanwhile


def test_leaving_the_loop_cancels_and_waits(tiny):
    model, cache = tiny(), PromptCache(tiny())
    seen = []
    for event in run_on_engine(stream, model, PROMPT, options=LONG, cache=cache):
        if isinstance(event, Token):
            seen.append(event.id)
            if len(seen) == 3:
                break
    assert engine().run(lambda: cache.tokens[: len(PROMPT) + 3]) == PROMPT + seen
    assert {entry.offset for entry in cache.entries} == {len(cache.tokens)}


def test_ctrl_c_cancels_the_job_and_keeps_the_cache(tiny, ctrl_c, monkeypatch):
    cache, model = PromptCache(tiny()), tiny()
    interrupted = []

    def interrupting(*arguments, cancel, **how):
        """Ctrl-C while the fifth token is under way, wherever the reader then is."""
        for event in stream(*arguments, cancel=cancel, **how):
            if isinstance(event, Token) and event.index == 5 and not interrupted:
                interrupted.append(event)
                until(current_job()._events.empty)  # the reader has begun to read
                interrupt()
            yield event

    with pytest.raises(KeyboardInterrupt):
        for _ in run_on_engine(interrupting, model, PROMPT, options=LONG, cache=cache):
            pass
    assert {entry.offset for entry in cache.entries} == {len(cache.tokens)}
    assert len(PROMPT) < len(cache.tokens) < len(PROMPT) + LONG["max_tokens"]
    *_, finish = run_on_engine(stream, model, cache.tokens, options=SHORT, cache=cache)
    assert finish.reused_tokens == finish.prompt_tokens - 1
    waiting = engine().submit(count, 10**9, delay=0.001)
    waits = waiting.wait

    def interrupted_wait(timeout):
        threading.Timer(0.05, interrupt).start()
        return waits(timeout)

    monkeypatch.setattr(waiting, "wait", interrupted_wait)
    with pytest.raises(KeyboardInterrupt):
        waiting.result()
    assert waiting.done


def test_jobs_inside_jobs_run_inline(tiny):
    def outer():
        inner = engine().submit(lambda: "inner").result()
        counted = engine().submit(count, 3)
        seen = [next(iter(counted.events()))]
        unforeseen = engine().submit(lambda: count(2))  # a function whose value is a generator
        seen.append(list(unforeseen.events()))
        yield (inner, seen, list(run_on_engine(count, 2)), engine().submit(count, 2).result())

    assert list(run_on_engine(outer)) == [("inner", [0, [0, 1]], [0, 1], "counted")]


def test_partial_functions_and_given_cancel_events(tiny):
    cancel = threading.Event()
    job = engine().submit(partial(stream, tiny(), options=LONG), PROMPT, cancel=cancel)
    next(job.events())
    cancel.set()
    assert job.wait(PATIENCE) and job.cancelled


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("ending", ["fork", "running", "queued"])
def test_processes_end_cleanly(ending):
    """A forked child has an engine of its own; leaving while a job runs does not hang or crash."""
    code = """
        import os, sys, time
        import gemma4_mlx
        import mlx.core as mx
        from gemma4_mlx.generation import engine

        def forever(cancel):
            while not cancel.is_set():
                mx.eval(mx.ones((64, 64)) @ mx.ones((64, 64)))
                yield 1

        engine().run(lambda: mx.eval(mx.ones(3) + 1))
        if {ending!r} == "fork":
            child = os.fork()
            if child == 0:
                os._exit(0 if engine().run(lambda: 7) == 7 else 1)
            print(os.waitpid(child, 0)[1])
        else:
            job = engine().submit(forever)
            if {ending!r} == "queued":
                engine().submit(time.sleep, 60)
            next(job.events())
        print("end")
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code.format(ending=ending))],
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == (["0", "end"] if ending == "fork" else ["end"])


def test_closing_cancels_what_runs_and_what_has_not_arrived():
    closing, begun = Engine(), threading.Event()

    def wait(cancel):
        begun.set()
        assert cancel.wait(PATIENCE)
        return "stopped"

    runs = closing.submit(wait)
    assert begun.wait(PATIENCE)
    waits = closing.submit(count, 3)  # the thread is in the other's turn and has not seen it
    closing.close(PATIENCE)
    assert runs.result() == "stopped" and not closing.busy
    with pytest.raises(CancelledError, match="before it began"):
        waits.result()
    with pytest.raises(GenerationError, match="shutting down"):
        closing.submit(count, 3)
    closing.close(PATIENCE)  # once more: there is nothing left to wait for
    Engine().close()  # and nothing ever ran


def test_a_models_pages_stay_in_place_while_anything_runs(monkeypatch):
    """Traces as well as answers: jobs in a row set the limit once, and it is given back."""
    limits, begun, go_on = [7], threading.Event(), threading.Event()

    def set_limit(size):
        limits.append(size)
        return limits[-2]

    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 1000})
    monkeypatch.setattr(mx, "set_wired_limit", set_limit)

    def wait():
        begun.set()
        assert go_on.wait(PATIENCE)

    first = Engine()
    jobs = [first.submit(wait)]
    assert begun.wait(PATIENCE)
    jobs.append(first.submit(lambda: list(limits)))
    go_on.set()
    assert jobs[1].result() == [7, 1000]
    until(lambda: limits == [7, 1000, 7])
