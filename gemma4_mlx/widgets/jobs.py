"""Work that takes seconds, in a thread of its own, so that a widget goes on answering meanwhile.

A widget answers its requests one after another. One that takes long starts a :class:`Job` and is
asked again until the job is done: the answer is ``{"running": share}`` or the result itself, which
is what a snapshot records.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

PATIENCE = 0.1  # seconds a request waits for the result before it says "running"


class Job:
    """``work(tell)`` in a thread; it may call ``tell(share)`` with the share done, 0 to 1."""

    def __init__(self, work: Callable[[Callable[[float], None]], Any]) -> None:
        self.share = 0.0
        self.result: Any = None
        self.error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, name="gemma4-job", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._work(lambda share: setattr(self, "share", float(share)))
        except Exception as error:  # raised where the job is asked after
            self.error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def wait(self, seconds: float | None = None) -> Job:
        """Wait for the end, at most so many seconds."""
        self._thread.join(seconds)
        return self

    def finish(self) -> Any:
        """Wait for the result. Raises what the work raised."""
        self.wait()
        if self.error is not None:
            raise self.error
        return self.result

    def poll(self) -> Any:
        """The result, or ``{"running": share}``. Raises what the work raised."""
        self.wait(PATIENCE)
        return {"running": self.share} if self.running else self.finish()


class Jobs:
    """The jobs of one widget by what was asked; the newest few are kept with their results."""

    def __init__(self, keep: int = 8) -> None:
        self._keep = keep
        self._jobs: dict[Any, Job] = {}

    def job(self, key: Any, work: Callable[[Callable[[float], None]], Any]) -> Job:
        """The job for ``key``; started if there is none, or if the last one failed and was told."""
        if key not in self._jobs:
            self._jobs[key] = Job(work)
            for old in list(self._jobs)[: -self._keep]:
                if not self._jobs[old].running:
                    del self._jobs[old]
        return self._jobs[key]

    def poll(self, key: Any, work: Callable[[Callable[[float], None]], Any]) -> Any:
        """Ask after the job for ``key``: its result, or how far it is. Raises what it raised; the
        next call tries again."""
        return self._told(key, self.job(key, work).poll)

    def finish(self, key: Any, work: Callable[[Callable[[float], None]], Any]) -> Any:
        """Wait for the job for ``key``: its result. Raises what it raised; the next call tries
        again."""
        return self._told(key, self.job(key, work).finish)

    def _told(self, key: Any, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except Exception:
            self._jobs.pop(key, None)
            raise

    def done(self) -> list[Any]:
        """Keys of the jobs that ended well, oldest first."""
        return [k for k, job in self._jobs.items() if not job.running and job.error is None]
