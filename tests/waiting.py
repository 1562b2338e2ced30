"""Waiting for what other threads and processes do, on a machine however busy.

A test waits for a thing to happen and never for a time in which it should have; a bound is there
so that a hang ends, long enough that no load reaches it.
"""

import signal
import threading
import time

#: Seconds after which something that should have happened is taken to hang.
PATIENCE = 600


def until(condition, what: str = "the condition") -> None:
    """Return as soon as ``condition()`` is true; AssertionError after :data:`PATIENCE`."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true within {PATIENCE} s"
        time.sleep(0.01)


def interrupt() -> None:
    """Ctrl-C as a terminal sends it, from any thread: it wakes the main thread from waiting, too.

    The test asks for the fixture ``ctrl_c``: a process that was started in the background may
    have been told to ignore it.
    """
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
