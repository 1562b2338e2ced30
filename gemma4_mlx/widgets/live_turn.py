"""The answer that is being written: parts that grow, and how much of them the view has been told.

Offsets count UTF-16 units, as JavaScript's strings do, so that an emoji does not shift what comes
after it.
"""

from __future__ import annotations

import json
import threading
from typing import Any


def utf16_length(text: str) -> int:
    """The length of ``text`` in JavaScript.

    >>> utf16_length("a\\N{GRINNING FACE}")
    3
    """
    return len(text) + sum(ch > "\uffff" for ch in text)


class LiveTurn:
    """One assistant turn while it streams. Written by one thread, read by the flusher's."""

    def __init__(self, id: str, parts: list[dict] | None = None) -> None:
        self.id = id
        self.parts: list[dict] = parts or []
        self.tokens: list[tuple] = []  # generation.Token, as they came
        self._sent = [utf16_length(p.get("text", "")) for p in self.parts]  # told so far
        self._fresh: list[list[str]] = [[] for _ in self.parts]  # text not yet told, per part
        self._whole = False  # tell the whole turn: something other than text has changed
        self._lock = threading.Lock()

    def write(self, kind: str, text: str) -> None:
        """Add to the last part if it is of this ``kind`` ("text", "thinking"), or begin one."""
        with self._lock:
            if not self.parts or self.parts[-1]["kind"] != kind:
                self._close()
                self._add({"kind": kind, "text": ""})
            self._fresh[-1].append(text)

    def tool_call(self, id: str, name: str, arguments: dict, status: str = "running") -> None:
        """A call that the model has finished writing."""
        with self._lock:
            self._close()
            known = next((p for p in self.parts if p.get("id") == id), None)
            if known is None:
                call = {"kind": "tool_call", "id": id, "name": name, "arguments": arguments}
                self._add(call | {"status": status})
            else:
                known["status"] = status
            self._whole = True

    def tool_result(self, id: str, result: Any, error: str | None = None, denied=False) -> None:
        """What a call gave, or why it gave nothing."""
        with self._lock:
            for part in self.parts:
                if part.get("id") == id:
                    part["result"] = error if error is not None else as_text(result)
                    part["status"] = "denied" if denied else "failed" if error else "done"
                    self._whole = True

    def turn(self, status: str = "streaming") -> dict:
        """The turn as the view's trait has it."""
        with self._lock:
            self._settle()
            return self._turn(status)

    def take(self) -> list[dict]:
        """What to push since the last call: deltas, or the whole turn."""
        with self._lock:
            if self._whole:
                self._whole = False
                self._settle()
                return [{"kind": "turn", "turn": self._turn("streaming")}]
            pushes = []
            for i, fresh in enumerate(self._fresh):
                if not fresh:
                    continue
                text, at = "".join(fresh), self._sent[i]
                delta = {"kind": "delta", "turn": self.id, "part": i, "at": at, "text": text}
                delta["part_kind"] = self.parts[i]["kind"]
                delta["tokens"] = len(self.tokens)
                pushes.append(delta)
            self._settle()
            return pushes

    def _add(self, part: dict) -> None:
        self.parts.append(part)
        self._sent.append(0)
        self._fresh.append([])

    def _close(self) -> None:
        if self.parts and self.parts[-1]["kind"] == "thinking":
            self.parts[-1]["closed"] = True
            self._whole = True

    def _settle(self) -> None:
        for i, fresh in enumerate(self._fresh):
            if fresh:
                text = "".join(fresh)
                fresh.clear()
                self.parts[i]["text"] += text
                self._sent[i] += utf16_length(text)

    def _turn(self, status: str) -> dict:
        return {
            "id": self.id,
            "role": "assistant",
            "parts": [dict(part) for part in self.parts],
            "status": status,
            "branch": 0,
            "branches": 1,
            "tokens": len(self.tokens),
            "editable": False,
        }


def as_text(result: Any) -> str:
    """A tool's result for the reader: text as it is, other values as JSON."""
    if isinstance(result, str):
        return result
    try:
        return json.dumps(result, ensure_ascii=False, indent=None, default=str)
    except (TypeError, ValueError):
        return str(result)
