"""A prompt cache that remembers which tokens it holds, steps back, and survives on disk.

A conversation's next turn, an edit in its middle, a regenerated answer: each is a new prompt that
shares a beginning with what is cached. :meth:`PromptCache.reuse` finds that beginning and rewinds
to it; only the rest is computed.

What stepping back costs. Full-attention layers keep every key, so for them it is free. A sliding
layer only holds its window and a little slack. To go further back it needs a *snapshot*: a copy of
the ``window - 1`` keys and values before a position, of each sliding layer. One snapshot can serve
a stretch of positions, at the price of one more key and value for each; and where a layer still
holds the keys from a snapshot's end on, the two together serve every position after it as well.

The snapshots of the last turn have priority (:meth:`PromptCache.keep_turn`): where it began, for an
edit, and where its answer begins, for another answer, and for any turn after a thought, because
later prompts leave the thought out. What ``snapshot_bytes`` has left goes to the end of the answer
and to every ``snapshot_every``-th token; the further back, the fewer of these are kept. In bfloat16
a snapshot takes 6 MiB on E2B, 20 on E4B, 200 on 26B-A4B, 320 on the 12B and 800 on 31B. If the
wanted position cannot be restored, the last one before it is, and the tokens between are computed
again, so the result is always that of a fresh run.
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
from .entries import (
    CachedMedia,
    Snapshot,
    arrays_of,
    cached_media,
    copy_entry,
    fill_entry,
    shortened,
)

#: Tokens between snapshots inside a long prompt or answer.
SNAPSHOT_EVERY = 2048
#: Memory for snapshots on a small model; larger ones take more, see :func:`snapshot_budget`.
SNAPSHOT_BYTES = 256 * 2**20
#: Positions before an answer that its snapshot also serves: the next prompt may differ from the
#: last a few tokens earlier, where the template opened the answer (an empty thought, for example).
REACH = 8
#: A common beginning of at least so many tokens is copied from another cache; a shorter one is
#: computed again.
WORTH_SHARING = 32

_in_use: "ContextVar[PromptCache | None]" = ContextVar("cache_in_use", default=None)
_living: "weakref.WeakSet[PromptCache]" = weakref.WeakSet()


def cache_in_use() -> "PromptCache | None":
    """The cache of the generation that is running in this context; None if there is none."""
    return _in_use.get()


class PromptCache:
    """Keys and values of one token sequence on one model.

    Attributes:
        entries: the model's cache, one entry per layer that owns keys and values; pass it as
            ``model(tokens, cache=cache.entries)`` only together with :meth:`commit`.
        tokens: ids whose keys and values are cached, in order.
        media: the pictures and sounds among them.
        busy: whether a generation is using this cache.
        reuse_note: why the last prompt could reuse little of what was cached, else "".

    Args:
        snapshot_bytes: memory for snapshots; None: :func:`snapshot_budget`; 0: none are taken. The
            last turn's snapshot is kept even if it alone is larger; at most it is half as large
            again as an ordinary one.

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
        """A new cache that starts with a copy of what another cache has in common with a prompt.

        So a second conversation with the same system text and tools need not read them again. All
        caches of this model in this process are considered that have the same settings and are
        not in use. Arguments as of the class."""
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
                fill_entry(entry, [mx.contiguous(part) for part in arrays_of(entry)], entry.offset)
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
        """The interventions and the model's fingerprint when the tokens were computed."""
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

    def commit(self, tokens: Sequence[int], media: Sequence[CachedMedia] = ()) -> None:
        """Record that the entries now hold these tokens as well. Their arrays must be evaluated."""
        self.tokens.extend(tokens)
        known = {(m.start, m.key) for m in self.media}
        self.media.extend(m for m in media if (m.start, m.key) not in known)

    def expect(self, token: mx.array) -> None:
        """A token (1,), itself still being computed, was fed to the model: its keys are in the
        entries, its id is not known yet."""
        self._pending = token

    def arrived(self, token: int) -> None:
        """The id of the token given to :meth:`expect` is known."""
        self._pending = None
        self.tokens.append(token)
        self.snapshot_if_due()

    def settle(self) -> None:
        """Make the entries hold exactly :attr:`tokens`, evaluated.

        Called when a generation ends, also by an exception or a cancellation; entries that were
        updated while others were not are stepped back. Afterwards another thread may use the cache,
        since only evaluated arrays cross threads.
        """
        if self._pending is not None:
            token, self._pending = self._pending, None
            if all(entry.offset == len(self.tokens) + 1 for entry in self.entries):
                self.tokens.append(int(token.item()))
        if any(entry.offset != len(self.tokens) for entry in self.entries):
            self._go_back(min(len(self.tokens), *(entry.offset for entry in self.entries)))
        mx.eval([entry.state for entry in self.entries if not entry.empty()])

    def snapshot_if_due(self) -> None:
        """Take a snapshot if the last is ``snapshot_every`` tokens behind and there is room for
        two."""
        last = self.snapshots[-1].position if self.snapshots else 0
        if len(self.tokens) - last < self.snapshot_every:
            return
        if 2 * self._snapshot_size() <= self.snapshot_bytes:
            self.snapshot()

    def snapshot(self) -> None:
        """Take a snapshot here, if the last turn's snapshot leaves room for it."""
        self._keep(len(self.tokens), len(self.tokens))

    def keep_turn(self, begin: int, answer: int) -> None:
        """Before an answer, take the snapshots that the next turn will need.

        Args:
            begin: position where the user's turn begins.
            answer: position where the model's part begins.

        One snapshot serves all positions from ``begin`` to ``answer`` (in an agent's turn, where
        calls and results may follow ``answer``, to the present one) if they are within half a
        window; else ``begin`` gets one of its own.
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
        """Add a snapshot that serves ``first`` to ``last``, and drop others to make room for it.

        ``turn`` marks it as the last turn's. Those are only dropped for a newer one: any other
        snapshot is not taken if there is no room beside them."""
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
        """The sliding layers' states for positions ``first`` to ``last``, from what the layers hold
        and at most one earlier snapshot; None if these do not suffice."""
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
        """Bytes of a snapshot for positions ``first`` to ``last``, by default the present one."""
        last = len(self.tokens) if last is None else last
        first = last if first is None else first
        count = last - max(0, first - (self.model.config.text.sliding_window - 1))
        sliding = [e for e in self.entries if isinstance(e, SlidingKVCache) and not e.empty()]
        return sum(e.nbytes // e.keys.shape[2] * count for e in sliding)

    def snapshot_bytes_at(self, tokens: int) -> int:
        """Upper bound of the bytes of all snapshots of a sequence of this length."""
        if self.snapshot_bytes <= 0:
            return 0
        one = snapshot_bytes(self.model.config.text, tokens, self.model.dtype.size)
        return min(
            max(self.snapshot_bytes, one + one // 2), one * (3 + tokens // self.snapshot_every)
        )

    def _thin_out(self, snapshots: list[Snapshot], end: int) -> None:
        """Drop the snapshot whose removal opens the smallest gap relative to its distance from the
        end. What is left is dense near the end and about geometrically sparser before."""
        positions = [0, *(s.position for s in snapshots), end]

        def loss(i):  # of dropping snapshot i, whose neighbours are positions i and i + 2
            return (positions[i + 2] - positions[i]) / (end - positions[i + 1] + 1)

        del snapshots[min(range(len(snapshots)), key=loss)]

    # Going back

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Mark the cache as ``busy``, and as :func:`cache_in_use` in this context."""
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

        At least the prompt's last token is left to compute, since its logits are needed. Pictures
        and sounds are equal if their content is (``MediaSpan.key``). The cache is cleared if the
        interventions or the adapter (or its scale) have changed since it was filled.

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
        """How many leading tokens of a prompt are cached; its last token does not count."""
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
        """Go back to at most ``position`` tokens; returns the position reached.

        That is ``position`` itself where the sliding layers or a snapshot hold what is needed, else
        the nearest position before it that a snapshot serves (0 if there is none).
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
            s if s.position <= position else shortened(s, position)
            for s in self.snapshots
            if s.first <= position
        ]
        return position

    def _nearest(self, position: int) -> tuple[int, list | None]:
        """The last position at or before this one that can be restored, and the layers' states."""
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
            copy_entry(mine, theirs)
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
    """Default bytes for the snapshots of one conversation: four snapshots of this model, at most a
    twentieth of the machine's memory, but never less than 256 MiB."""
    text = model.config.text
    one = snapshot_bytes(text, text.sliding_window, model.dtype.size)
    return max(SNAPSHOT_BYTES, min(4 * one, this_machine().memory // 20))
