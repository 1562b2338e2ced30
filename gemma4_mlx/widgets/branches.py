"""Versions of a conversation: what an edit or a new answer replaced stays and can be gone back to.

A version belongs to a place: a number of messages and which they are. The *tail* is everything from
there on. Versions further on belong to their own place, so they come back with the tail that they
are in. Messages are told apart by identity: a chat keeps its message objects, and two equal
greetings are two places.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class _Place:
    tails: list[list[Any]] = field(default_factory=list)
    current: int = 0


class Branches:
    """Versions over the list ``messages`` of a chat, which is changed in place."""

    def __init__(self, messages: list[Any]) -> None:
        self._messages = messages
        self._places: dict[tuple[int, ...], _Place] = {}

    def versions(self, at: int) -> tuple[int, int]:
        """(which is shown, how many there are) of what stands from message ``at`` on."""
        place = self._places.get(self._key(at))
        return (place.current, len(place.tails)) if place else (0, 1)

    def begin(self, at: int) -> None:
        """Cut the conversation at ``at`` for a new version; what stood there is kept."""
        place = self._places.setdefault(self._key(at), _Place([[]]))
        place.tails[place.current] = self._messages[at:]
        place.current = len(place.tails)
        place.tails.append([])
        del self._messages[at:]

    def give_up(self, at: int) -> None:
        """Forget the version that was begun last at ``at`` and show the one before."""
        key = self._key(at)
        place = self._places[key]
        place.tails.pop(place.current)
        place.current = len(place.tails) - 1
        self._messages[at:] = place.tails[place.current]
        if len(place.tails) == 1:
            del self._places[key]

    def switch(self, at: int, version: int) -> None:
        """Show another version of what stands from message ``at`` on.

        Raises IndexError for a version that does not exist.
        """
        place = self._places.get(self._key(at))
        if place is None or not 0 <= version < len(place.tails):
            raise IndexError(f"there is no version {version} of message {at}")
        place.tails[place.current] = self._messages[at:]
        place.current = version
        self._messages[at:] = place.tails[version]

    def clear(self) -> None:
        self._places.clear()

    def _key(self, at: int) -> tuple[int, ...]:
        return tuple(id(message) for message in self._messages[:at])
