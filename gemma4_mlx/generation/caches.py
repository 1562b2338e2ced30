"""A prompt cache that remembers which tokens it holds, steps back, and survives on disk.

A conversation's next turn, an edit in its middle, a regenerated answer: each is a new prompt that
shares a beginning with what is cached. :meth:`PromptCache.reuse` finds that beginning and rewinds
to it; only the rest is computed.

What stepping back costs. Full-attention layers keep every key, so for them it is free. A sliding
layer keeps its window and a little slack; further back it needs a *snapshot*, a copy of the last
``window - 1`` keys and values of each sliding layer before a position, or before a stretch of
positions: those share all but one key and value each. Together with what the layers hold, a
snapshot serves every position from its beginning on for as long as the layers go back to its end.

What the next turn will need is kept first (:meth:`PromptCache.keep_turn`): where the last turn
began, for an edit, and where its answer begins, for another answer and for all turns after a
thought, which later prompts leave out. Then, as far as ``snapshot_bytes`` go, the end of the
answer and every ``snapshot_every``-th token, thinned out, the oldest regions first. One costs, in
bfloat16, 6 MiB on E2B, 20 on E4B, 200 on 26B-A4B, 320 on the 12B and 800 on 31B. Rewinding goes to
the last position that can be had, at or before the wanted one, and the tokens between are
computed again, so the result is always that of a fresh run.
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import mlx.core as mx
import numpy as np

from ..checkpoints.machine import this_machine
from ..checkpoints.planner import snapshot_bytes
from ..errors import GenerationError
from ..model.cache import SlidingKVCache, rewind
from . import cache_files
from .entries import CachedMedia, Snapshot, cached_media, fill, held_by, until

#: Tokens between snapshots inside a long prompt or answer.
SNAPSHOT_EVERY = 2048
#: Memory for snapshots on a small model; larger ones take more, see :func:`snapshot_budget`.
SNAPSHOT_BYTES = 256 * 2**20
#: Positions before an answer that its snapshot serves, too: the template may have begun it.
REACH = 8
#: Shorter common beginnings are computed again rather than copied from another cache.
WORTH_SHARING = 32

_in_use: "ContextVar[PromptCache | None]" = ContextVar("cache_in_use", default=None)
_living: "weakref.WeakSet[PromptCache]" = weakref.WeakSet()


def cache_in_use() -> "PromptCache | None":
    """The cache of the generation that the caller is part of; None outside of one."""
    return _in_use.get()


class PromptCache:
    """Keys and values of one token sequence on one model.

    Attributes:
        entries: the model's cache, one entry per layer that owns keys and values; pass it as
            ``model(tokens, cache=cache.entries)`` only together with :meth:`commit`.
        tokens: ids whose keys and values are cached, in order.
        media: the pictures and sounds among them.
        busy: a generation is under way on it.
        reuse_note: why the last prompt could reuse little of what was cached, else "".

    Args:
        snapshot_bytes: memory for snapshots; None: :func:`snapshot_budget`; 0: none are taken. The
            last turn's is kept even where it alone takes more, up to half as much again.

    Raises:
        GenerationError: ``kv_bits`` other than 8, 4 and None, ``snapshot_every`` below 1, or
            ``snapshot_bytes`` that are no number of bytes.
    """

    def __init__(
        self,
        model,
        *,
        kv_bits: int | None = None,
        kv_group_size: int = 64,
        snapshot_every: int = SNAPSHOT_EVERY,
        snapshot_bytes: int | None = None,
    ):
        if snapshot_every < 1:
            raise GenerationError(f"snapshot_every must be 1 token or more, not {snapshot_every}.")
        self.model = model
        snapshot_bytes = checked_snapshot_bytes(snapshot_bytes)
        if snapshot_bytes is None:
            snapshot_bytes = snapshot_budget(model)
        self.kv_bits, self.kv_group_size = kv_bits, kv_group_size
        self.snapshot_every, self.snapshot_bytes = snapshot_every, snapshot_bytes
        self._bidirectional = model.config.text.use_bidirectional_attention == "vision"
        self.busy = False
        self.clear()
        _living.add(self)

    @classmethod
    def sharing(cls, model, inputs, **how) -> "PromptCache":
        """A new cache that begins with what some other cache of this model, alive in this process
        and kept the same way, has in common with a prompt: a second conversation with the same
        system text and tools reads them only once. Arguments as of the class."""
        cache = cls(model, **how)
        tokens, media = getattr(inputs, "tokens", inputs), cached_media(inputs)

        def common(other):
            kept = (other.model, other.kv_bits, other.kv_group_size, other.changes)
            own = (model, cache.kv_bits, cache.kv_group_size, cache.changes)
            alike = kept[0] is own[0] and kept[1:] == own[1:]
            return other.common_prefix(tokens, media) if alike and not other.busy else 0

        length, best = max(((common(o), o) for o in list(_living)), key=lambda pair: pair[0])
        if length >= WORTH_SHARING and best._copy_to(cache)._go_back(length) >= WORTH_SHARING:
            for entry in cache.entries:
                fill(entry, [mx.contiguous(part) for part in held_by(entry)], entry.offset)
            cache.settle()
        return cache

    def clear(self) -> None:
        """Forget everything."""
        self.entries = self.model.make_cache(kv_bits=self.kv_bits, kv_group_size=self.kv_group_size)
        self.tokens: list[int] = []
        self.media: list[CachedMedia] = []
        self.snapshots: list[Snapshot] = []
        self.interventions, self.fingerprint = self.model.interventions, self.model.fingerprint
        self.reuse_note = ""
        self._pending: mx.array | None = None

    @property
    def changes(self) -> tuple:
        """What the tokens were computed under: interventions, and the model's fingerprint."""
        return self.interventions, self.fingerprint

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        return (
            f"PromptCache({len(self)} tokens, {self.nbytes / 2**20:.1f} MiB, "
            f"{len(self.snapshots)} snapshots)"
        )

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, snapshots included."""
        held = sum(getattr(entry, "nbytes", 0) for entry in self.entries if not entry.empty())
        return held + sum(snapshot.nbytes for snapshot in self.snapshots)

    # Growing

    def make_room(self, tokens: int) -> None:
        """The sequence will have so many tokens."""
        for entry in self.entries:
            entry.expected = tokens

    def commit(self, tokens: Sequence[int], media: Sequence[CachedMedia] = ()) -> None:
        """Record that the entries now hold these tokens, too, and are evaluated."""
        self.tokens.extend(tokens)
        known = {(m.start, m.key) for m in self.media}
        self.media.extend(m for m in media if (m.start, m.key) not in known)

    def expect(self, token: mx.array) -> None:
        """Note that a token (1,) still being computed was fed to the model already."""
        self._pending = token

    def arrived(self, token: int) -> None:
        """The expected token is known."""
        self._pending = None
        self.tokens.append(token)
        self.snapshot_if_due()

    def settle(self) -> None:
        """Finish what is under way, so that the entries hold exactly :attr:`tokens`.

        Called when a generation ends, however it ends; afterwards another thread may go on with
        this cache. Entries that an exception left half updated are stepped back.
        """
        if self._pending is not None:
            token, self._pending = self._pending, None
            if all(entry.offset == len(self.tokens) + 1 for entry in self.entries):
                self.tokens.append(int(token.item()))
        if any(entry.offset != len(self.tokens) for entry in self.entries):
            self._go_back(min(len(self.tokens), *(entry.offset for entry in self.entries)))
        mx.eval([entry.state for entry in self.entries if not entry.empty()])

    def snapshot_if_due(self) -> None:
        """Take a snapshot if the last is ``snapshot_every`` tokens behind and two find room."""
        last = self.snapshots[-1].position if self.snapshots else 0
        if len(self.tokens) - last < self.snapshot_every:
            return
        if 2 * self._snapshot_size() <= self.snapshot_bytes:
            self.snapshot()

    def snapshot(self) -> None:
        """Remember the present position as one to come back to, if the last turn's leaves room."""
        self._keep(len(self.tokens), len(self.tokens))

    def keep_turn(self, begin: int, answer: int) -> None:
        """Before an answer: remember where the turn began (``begin``) and where the model's part
        of it (``answer``), and the places between, as far as they are near one another.

        Of an agent's turn, what it has called and heard since then is kept, too.
        """
        here, near = len(self.tokens), self.model.config.text.sliding_window // 2
        begin, answer = min(begin, here), min(answer, here)
        end = here if here - begin <= near else answer
        far = end - begin > near
        if far:
            self._keep(begin, begin)
        self._keep(max(begin, end - REACH) if far else begin, end, turn=True)
        self.snapshot()

    def _keep(self, first: int, last: int, *, turn: bool = False) -> None:
        """Add a snapshot that serves ``first`` to ``last``. Others make room for it; where the last
        turn's alone would have to, it is not taken."""
        position = len(self.tokens)
        size = self._snapshot_size(first, last)
        # A model without sliding layers steps back anywhere: its snapshots have no size.
        if self.snapshot_bytes <= 0 or size == 0 or last == 0:
            return
        if {entry.offset for entry in self.entries} != {position}:
            return
        for known in self.snapshots:
            if known.first <= first and last <= known.position:
                if turn:
                    self._mark_turn(known)
                return
        layers = self._stretch(first, last)
        if layers is None:
            return
        inside = [s for s in self.snapshots if first <= s.first and s.position <= last]
        others = [s for s in self.snapshots if s not in inside and (turn or not s.turn)]
        room = self.snapshot_bytes - size
        room -= sum(s.nbytes for s in self.snapshots if s not in inside and s not in others)
        if room < 0 and not turn:
            return
        while others and sum(s.nbytes for s in others) > room:
            self._thin_out(others, position)
        kept = [
            s for s in self.snapshots if s in others or (s.turn and not turn and s not in inside)
        ]
        mx.eval([layer["state"] for layer in layers if layer])
        added = Snapshot(last, layers, first)
        self.snapshots = sorted([*kept, added], key=lambda s: s.position)
        if turn or any(s.turn for s in inside):
            self._mark_turn(added)

    def _mark_turn(self, snapshot: Snapshot) -> None:
        for each in self.snapshots:
            each.turn = each is snapshot

    def _stretch(self, first: int, last: int) -> list | None:
        """What the layers need for positions ``first`` to ``last``, from what they hold and one
        snapshot before it; None if it cannot be had."""
        for before in (None, *reversed(self.snapshots)):
            found = []
            for i, entry in enumerate(self.entries):
                if isinstance(entry, SlidingKVCache):
                    layer = entry.stretch(first, last, before and before.layers[i])
                    if layer is None:
                        break
                    found.append(layer)
                else:
                    found.append(None)
            else:
                return found
        return None

    def _snapshot_size(self, first: int | None = None, last: int | None = None) -> int:
        """Bytes of a snapshot of positions ``first`` to ``last``, by default of the present one."""
        last = len(self.tokens) if last is None else last
        first = last if first is None else first
        count = last - max(0, first - (self.model.config.text.sliding_window - 1))
        sliding = [e for e in self.entries if isinstance(e, SlidingKVCache) and not e.empty()]
        return sum(e.nbytes // e.keys.shape[2] * count for e in sliding)

    def snapshot_bytes_at(self, tokens: int) -> int:
        """At most what the snapshots of a sequence of this length will take."""
        if self.snapshot_bytes <= 0:
            return 0
        one = snapshot_bytes(self.model.config.text, tokens, self.model.dtype.size)
        return min(
            max(self.snapshot_bytes, one + one // 2), one * (3 + tokens // self.snapshot_every)
        )

    def _thin_out(self, snapshots: list[Snapshot], end: int) -> None:
        """Drop the snapshot whose removal opens the smallest gap, relative to its distance from
        the end. Distances then grow about geometrically."""
        positions = [0, *(s.position for s in snapshots), end]

        def loss(i):  # of dropping snapshot i, whose neighbours are positions i and i + 2
            return (positions[i + 2] - positions[i]) / (end - positions[i + 1] + 1)

        del snapshots[min(range(len(snapshots)), key=loss)]

    # Going back

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """A generation computes on it: it is ``busy``, and :func:`cache_in_use` there."""
        before = _in_use.get()
        try:
            self.busy = True
            _in_use.set(self)
            yield
        finally:
            _in_use.set(before)
            self.busy = False

    def reuse(self, inputs) -> int:
        """Rewind to what this prompt has in common with the cache; return its length in tokens.

        At least the prompt's last token is left to compute. Pictures and sounds count as equal
        if their content is (``MediaSpan.key``). Nothing is reused across different interventions
        or adapters (or scales of one), or from a model whose weights were changed by them.

        Args:
            inputs: a ``ModelInputs``, or a plain list of token ids.
        """
        tokens, media = getattr(inputs, "tokens", inputs), cached_media(inputs)
        had, now = len(self.tokens), (self.model.interventions, self.model.fingerprint)
        other = self.changes != now
        changed = "interventions have" if self.interventions != now[0] else "the adapter has"
        if other:
            self.clear()
        common = self.common_prefix(tokens, media)
        reused = self._go_back(common)
        self.reuse_note = ""
        possible = min(had, len(tokens) - 1)
        if 2 * reused < possible:
            if other:
                self.reuse_note = f"{changed} changed"
            elif 2 * common < possible:
                self.reuse_note = f"the prompt differs from token {common:,} on"
            else:
                self.reuse_note = (
                    f"sliding layers could step back to token {reused:,} only, of {common:,} in "
                    "common: more snapshot_bytes keep more places"
                )
        return reused

    def common_prefix(self, tokens: Sequence[int], media: Sequence[CachedMedia] = ()) -> int:
        """How many leading tokens of a prompt are cached, at most all but its last."""
        n = min(len(self.tokens), len(tokens) - 1)
        if n <= 0:
            return 0
        mine, theirs = np.array(self.tokens[:n]), np.array(tokens[:n])
        different = np.flatnonzero(mine != theirs)
        n = int(different[0]) if len(different) else n
        for ours, other in ((self.media, media), (media, self.media)):
            wanted = set(other)
            n = min([n, *(m.start for m in ours if m not in wanted and m.start < n)])
        if self._bidirectional:  # an image's soft tokens see each other: all of them or none
            n = min([n, *(m.start for m in media if m.start < n < m.stop)])
        return n

    def rewind(self, position: int) -> int:
        """Go back to at most ``position`` tokens; returns where it got to.

        That is ``position`` itself where the sliding layers still hold what is needed, else the
        nearest snapshot before it (0 at worst).
        """
        self.settle()
        return self._go_back(max(0, min(position, len(self))))

    def _go_back(self, position: int) -> int:
        if not (position and rewind(self.entries, position)):
            position, layers = self._nearest(position)
            if layers is None:
                self.clear()
                return 0
            for entry, layer in zip(self.entries, layers):
                if layer is not None:
                    entry.restore(layer)
                else:
                    entry.trim(entry.offset - position)
        del self.tokens[position:]
        self.media = [m for m in self.media if m.start < position]
        self.snapshots = [
            s if s.position <= position else until(s, position)
            for s in self.snapshots
            if s.first <= position
        ]
        return position

    def _nearest(self, position: int) -> tuple[int, list | None]:
        """The last position at or before this one that can be had, and the layers for it."""
        if position and (layers := self._stretch(position, position)) is not None:
            return position, layers
        ends = [min(s.position, position) for s in self.snapshots if s.first <= position]
        best = max(ends, default=0)
        return best, self._stretch(best, best) if best else None

    def fork(self) -> "PromptCache":
        """An independent copy to continue differently; shares memory until one of them writes."""
        self.settle()
        return self._copy_to(
            PromptCache(
                self.model,
                kv_bits=self.kv_bits,
                kv_group_size=self.kv_group_size,
                snapshot_every=self.snapshot_every,
                snapshot_bytes=self.snapshot_bytes,
            )
        )

    def _copy_to(self, copy: "PromptCache") -> "PromptCache":
        copy.interventions, copy.fingerprint = self.changes
        copy.tokens, copy.media = list(self.tokens), list(self.media)
        copy.snapshots = list(self.snapshots)
        for mine, theirs in zip(copy.entries, self.entries):
            fill(mine, [mx.array(part) for part in held_by(theirs)], theirs.offset)
        copy.settle()
        return copy

    # On disk

    def save(self, path, *, snapshots: bool = True) -> None:
        """Write the cache to a ``.safetensors`` file, atomically. See :mod:`.cache_files`.

        Raises CheckpointError if the file cannot be written.
        """
        cache_files.save(self, path, snapshots=snapshots)

    @classmethod
    def load(cls, path, model) -> "PromptCache":
        """Read what :meth:`save` wrote, for the same model. See :mod:`.cache_files`.

        Raises CheckpointError for a file that is missing, damaged, cut short, or of another model.
        """
        return cache_files.load(path, model, cls)


def checked_snapshot_bytes(snapshot_bytes: int | None) -> int | None:
    """A number of bytes, or None for the default. Raises GenerationError."""
    if snapshot_bytes is None or (isinstance(snapshot_bytes, int) and snapshot_bytes >= 0):
        return snapshot_bytes
    raise GenerationError(
        f"snapshot_bytes must be a number of bytes, or None for the default, not {snapshot_bytes!r}"
    )


def snapshot_budget(model) -> int:
    """Bytes for the snapshots of one conversation: four of this model's, but no more than a
    twentieth of the machine's memory; 256 MiB in any case."""
    text = model.config.text
    one = snapshot_bytes(text, text.sliding_window, model.dtype.size)
    return max(SNAPSHOT_BYTES, min(4 * one, this_machine().memory // 20))
