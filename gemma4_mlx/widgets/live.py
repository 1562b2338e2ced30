"""Routing while a model runs: an observer that follows one job at a time, rewinds and repeats.

A ``Recorder`` of :mod:`gemma4_mlx.tracing` records one run from an empty cache. A conversation is
not that: the cache is kept between turns, and editing or regenerating steps back. So this observer
reads where each call begins and forgets what lies behind that point. Several conversations may take
turns on the engine: each is recorded for itself, and shown is the one whose job came first, until
that job ends. Results are converted two tokens late, when they are computed anyway, so that
decoding stays asynchronous.
"""

from __future__ import annotations

import threading
import weakref
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..tracing.recording.buffers import TokenBuffer
from .base import Flusher

TAPS = ("expert_indices", "expert_weights")
WAITING = 2  # calls whose results are still being computed
RATE = 8  # updates of the views a second
KEPT = 8  # conversations remembered, those that were last gone on with

_followed: weakref.WeakValueDictionary = weakref.WeakValueDictionary()  # id(model) -> LiveRouting


@dataclass(frozen=True, eq=False)
class _Sequence:
    """The routing of one conversation, from token ``first`` on: before it nobody watched.

    The arrays are views of buffers that later ones go on in.
    """

    first: int
    ids: np.ndarray  # (n,)
    experts: np.ndarray  # (layers, n, k), strongest first
    weights: np.ndarray  # (layers, n, k)
    buffers: tuple[TokenBuffer, ...] = ()

    def with_call(self, start: int, ids, experts, weights) -> _Sequence:
        """What a call has computed for tokens ``start ...`` in the place of what was there."""
        first, keep = self.first, start - self.first
        if not 0 <= keep <= len(self.ids):
            first, keep = start, 0
        new, buffers = (ids[None], experts, weights), self.buffers
        # Behind ``keep`` the buffers may hold what a view of another sequence shows.
        if not buffers or keep != buffers[0].n:
            kept = (self.ids[None], self.experts, self.weights)
            buffers = tuple(TokenBuffer((len(x), *x.shape[2:]), x.dtype) for x in new)
            for buffer, old in zip(buffers, kept):
                buffer.put(0, old[:, :keep])
        for buffer, values in zip(buffers, new):
            buffer.put(keep, values)
        ids, experts, weights = (buffer.values for buffer in buffers)
        return _Sequence(first, ids[0], experts, weights, buffers)


@dataclass
class _Call:
    """One call of the model: by which job, on which cache, and what its taps have shown."""

    job: Any
    cache: Any
    tokens: Any
    start: int | None = None
    taps: dict = field(default_factory=lambda: {tap: {} for tap in TAPS})


class LiveRouting:
    """The routing of whatever a model computes now, shaped like a trace.

    ``tokens``, ``routing``, ``model`` and ``selection`` are those of a :class:`Trace`, of the
    tokens seen so far. One instance serves all views of a model; it observes the model until it
    is closed or collected.
    """

    @classmethod
    def follow(cls, source: Any, changed) -> LiveRouting:
        """The instance for a model, a chat or a ``Prompt`` widget; ``changed()`` is called after
        updates, at most :data:`RATE` times a second, as long as its owner lives.

        Raises TypeError for anything else.
        """
        model = model_of(source)
        live = _followed.get(id(model))
        if live is None or live.closed:
            live = _followed[id(model)] = cls(model)
        live._views.append(weakref.WeakMethod(changed))
        return live

    def __init__(self, model: Any) -> None:
        from ..tracing import Selection
        from ..tracing.recording.recorder import model_facts
        from ..tracing.recording.routing import expert_scales

        text = model.config.text
        self._model, self.model = model, model_facts(model)
        self.selection, self.interventions, self.media = Selection(), (), None
        self._experts_exist = text.enable_moe_block
        self._layers = tuple(range(text.num_hidden_layers)) if text.enable_moe_block else ()
        self._scale = expert_scales(model, self._layers) if self._layers else None
        self._k, self._count = text.top_k_experts, text.num_experts
        self._lock = threading.Lock()
        self._views: list[weakref.WeakMethod] = []
        self._shown = self._reader = None  # the Tokens given out last, and their detokenizer
        self._read, self._read_ids = [], np.zeros(0, np.int32)
        self._sequence = self._empty(0)  # the one that is shown
        self.revision = 0  # goes up when what is shown does not continue what was shown before
        self._sequences: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # by cache or job
        self._job: weakref.ref | None = None  # the one that is followed
        self._calls: list[_Call] = []
        self._watching = False  # the present call is recorded
        self._flusher = Flusher(self._tell, rate=RATE)
        self._observing = ExitStack()
        if text.enable_moe_block:
            self._observing.enter_context(model.observe(_Observer(self)))

    @property
    def closed(self) -> bool:
        return self._model is None

    def close(self) -> None:
        """Stop observing."""
        self._observing.close()
        self._model = None

    def __del__(self) -> None:
        self._observing.close()

    # ---- on the thread that runs the model ------------------------------------------------------

    def begin(self, tokens: Any) -> None:
        """A call of the model starts."""
        from ..generation.caches import cache_in_use
        from ..generation.engine import current_job

        self._watching = tokens.shape[0] == 1
        if not self._watching:
            return
        self._calls.append(_Call(current_job(), cache_in_use(), tokens))
        if len(self._calls) > WAITING:
            self._settle(len(self._calls) - WAITING)
        self._flusher.mark()  # of a run of few calls, too, the last ones are converted in the end

    def seen(self, name: str, layer: int | None, value: Any, geometry: Any) -> None:
        """A tap of the current call."""
        if not self._watching or not self._calls:
            return
        call = self._calls[-1]
        if geometry is not None and call.start is None:
            call.start = geometry.query_start
        if name in TAPS:
            call.taps[name][layer] = value

    def _settle(self, count: int) -> None:
        """Convert the ``count`` oldest calls."""
        import mlx.core as mx

        with self._lock:
            for _ in range(min(count, len(self._calls))):
                call = self._calls.pop(0)
                if any(len(call.taps[tap]) != len(self._layers) for tap in TAPS):
                    continue  # a prompt's chunk whose upper layers were never computed
                mx.eval(call.tokens, *(list(call.taps[tap].values()) for tap in TAPS))
                ids = np.array(call.tokens[0]).astype(np.int32)
                experts, weights = (
                    np.concatenate([np.array(call.taps[tap][i].astype(kind)) for i in self._layers])
                    for tap, kind in zip(TAPS, (mx.uint32, mx.float32))
                )
                self._add(call, ids, experts.astype(np.uint16), weights)
        self._flusher.mark()

    def _add(self, call: _Call, ids, experts, weights) -> None:
        """Put the results of a call in place, experts and weights (layers, n, k)."""
        order = np.argsort(-weights, axis=-1, kind="stable")
        experts = np.take_along_axis(experts, order, axis=-1)
        weights = np.take_along_axis(weights, order, axis=-1)
        owner = next((o for o in (call.cache, call.job) if o is not None), self)
        start = call.start or 0
        before = self._sequences.pop(owner, None) or self._beginning(call, start)
        now = before.with_call(start, ids, experts, weights)
        self._sequences[owner] = now  # it is the last now, so that others go first
        if len(self._sequences) > KEPT:
            del self._sequences[next(iter(self._sequences))]
        followed = self._job() if self._job is not None else None
        left = any(call.job is followed for call in self._calls)  # not all of it was shown yet
        if followed is None or followed is call.job or (followed.done and not left):
            self._job = weakref.ref(call.job) if call.job is not None else None
            if before is not self._sequence or start - now.first < len(before.ids):
                self.revision += 1
            self._sequence = now

    def _beginning(self, call: _Call, start: int) -> _Sequence:
        """What a cache that is new here begins with, where it was copied from one that is known.

        Pictures and sounds are not told apart by their tokens: a beginning that has any is known
        by its own cache alone.
        """
        known = list(self._sequences.values())
        if call.cache is not None and not any(m.start < start for m in call.cache.media):
            for sequence in known:
                if sequence.first == 0 and list(sequence.ids[:start]) == call.cache.tokens[:start]:
                    return sequence
        return self._empty(start)

    def _empty(self, first: int) -> _Sequence:
        shape = (len(self._layers), 0, self._k or 1)
        experts, weights = np.zeros(shape, np.uint16), np.zeros(shape, np.float32)
        return _Sequence(first, np.zeros(0, np.int32), experts, weights)

    # ---- on the flusher's thread ----------------------------------------------------------------

    def _tell(self) -> None:
        waiting = len(self._calls)
        for view in self._views:
            changed = view()
            if changed is not None:
                changed()
        self._views = [view for view in self._views if view() is not None]
        if waiting:  # the last tokens of a run: nobody calls the model again
            timer = threading.Timer(0.3, self._finish_if_idle, (self._calls[-1],))
            timer.daemon = True
            timer.start()

    def _finish_if_idle(self, last: _Call) -> None:
        if self._calls and self._calls[-1] is last:
            from ..generation import engine

            engine().submit(self._settle, len(self._calls))

    # ---- what a trace has -----------------------------------------------------------------------

    @property
    def tokens(self):
        """The tokens seen so far (``tracing.Tokens``)."""
        with self._lock:
            return self._tokens_of(self._sequence)

    def _tokens_of(self, sequence: _Sequence):
        from ..tracing.data.tokens import KINDS, Tokens, roles_of

        ids = sequence.ids
        if self._shown is not None and self._shown.ids is ids:
            return self._shown
        kinds = np.zeros(len(ids), np.uint8)
        tokenizer = self._model.tokenizer if self._model is not None else None
        if tokenizer is None:
            self._shown = Tokens(ids, [f"<{i}>" for i in ids], kinds)
            return self._shown
        special = np.array(sorted(tokenizer.special_ids.values()), np.int32)
        kinds[np.isin(ids, special)] = KINDS.index("special")
        for kind in ("image", "video", "audio"):
            kinds[ids == getattr(self._model.config, f"{kind}_token_id")] = KINDS.index(kind)
        texts = list(self._texts(tokenizer, ids))
        roles = roles_of(texts, kinds == KINDS.index("special"))
        self._shown = Tokens(ids, texts, kinds, roles)
        return self._shown

    def _texts(self, tokenizer, ids) -> list[str]:
        """Texts of ``ids``; those known from the last call are not decoded again."""
        known = len(self._read)
        if known > len(ids) or not np.array_equal(self._read_ids, ids[:known]):
            self._reader, self._read = tokenizer.detokenizer(), []
        elif self._reader is None:
            self._reader = tokenizer.detokenizer()
        self._read += [self._reader.add(int(i)) for i in ids[len(self._read) :]]
        self._read_ids = ids
        return self._read

    @property
    def routing(self):
        """The routing seen so far (``tracing.RoutingData``); None for a model without experts."""
        from ..tracing import RoutingData

        if not self._experts_exist:
            return None
        with self._lock:
            now = self._sequence
            tokens = self._tokens_of(now)
        return RoutingData(
            self._layers, now.experts, now.weights, self._count, tokens, scale=self._scale
        )


class _Observer:
    """What the model calls; holds its owner weakly, for the model outlives the views."""

    def __init__(self, owner: LiveRouting) -> None:
        self._owner = weakref.ref(owner)

    def __call__(self, name: str, layer: int | None, value: Any, geometry: Any) -> None:
        owner = self._owner()
        if owner is None:
            return
        if name == "tokens":
            owner.begin(value)
        elif name in TAPS or geometry is not None:
            owner.seen(name, layer, value, geometry)


def model_of(source: Any):
    """The model behind a model, a chat or a ``Prompt`` widget. Raises TypeError for others."""
    for _ in range(3):
        if hasattr(source, "observe") and hasattr(source, "config"):
            return source
        source = getattr(source, "model", None) or getattr(source, "chat", None)
    raise TypeError("Routing takes a trace, a model, a chat or a Prompt widget")
