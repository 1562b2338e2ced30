"""Routing while a model runs: an observer that follows rewinds and repeats.

A ``Recorder`` of :mod:`gemma4_mlx.tracing` records one run from an empty cache. A conversation is
not that: the cache is kept between turns, and editing or regenerating steps back. So this observer
reads where each call begins and forgets what lies behind that point. Results are converted two
tokens late, when they are computed anyway, so that decoding stays asynchronous.
"""

from __future__ import annotations

import threading
import weakref
from contextlib import ExitStack
from typing import Any

import numpy as np

from gemma4_mlx.widgets.base import Flusher

TAPS = ("expert_indices", "expert_weights")
WAITING = 2  # calls whose results are still being computed
RATE = 8  # updates of the views a second

_followed: weakref.WeakValueDictionary = weakref.WeakValueDictionary()  # id(model) -> LiveRouting


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
        from gemma4_mlx.tracing import Selection
        from gemma4_mlx.tracing.recorder import expert_scales, model_facts

        text = model.config.text
        self._model, self.model = model, model_facts(model)
        self.selection, self.interventions, self.media = Selection(), (), None
        self._experts_exist = text.enable_moe_block
        self._layers = tuple(range(text.num_hidden_layers)) if text.enable_moe_block else ()
        self._scale = expert_scales(model, self._layers) if self._layers else None
        self._k, self._count = text.top_k_experts, text.num_experts
        self._lock = threading.Lock()
        self._views: list[weakref.WeakMethod] = []
        self._shown = self._reader = None  # the last tokens given out, and what decodes them
        self._read, self._read_ids = [], np.zeros(0, np.int32)
        self._calls: list[dict] = []  # {"start", "tokens", tap: {layer: array}}
        self._clear()
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

    def _clear(self) -> None:
        k = self._k or 1
        self._ids = np.zeros(0, np.int32)
        self._experts = np.zeros((len(self._layers), 0, k), np.uint16)
        self._weights = np.zeros((len(self._layers), 0, k), np.float32)

    # ---- on the thread that runs the model ------------------------------------------------------

    def begin(self, tokens: Any) -> None:
        """A call of the model starts."""
        if tokens.shape[0] != 1:
            self._calls = []
            return
        self._calls.append({"start": None, "tokens": tokens, **{tap: {} for tap in TAPS}})
        if len(self._calls) > WAITING:
            self._settle(len(self._calls) - WAITING)

    def seen(self, name: str, layer: int | None, value: Any, geometry: Any) -> None:
        """A tap of the current call."""
        if not self._calls:
            return
        call = self._calls[-1]
        if geometry is not None and call["start"] is None:
            call["start"] = geometry.query_start
        if name in TAPS:
            call[name][layer] = value

    def _settle(self, count: int) -> None:
        """Convert the ``count`` oldest calls."""
        import mlx.core as mx

        with self._lock:
            done, self._calls = self._calls[:count], self._calls[count:]
            for call in done:
                if any(len(call[tap]) != len(self._layers) for tap in TAPS):
                    continue  # a prompt's chunk whose upper layers were never computed
                mx.eval(call["tokens"], *(list(call[tap].values()) for tap in TAPS))
                ids = np.array(call["tokens"][0]).astype(np.int32)
                experts, weights = (
                    np.concatenate([np.array(call[tap][i].astype(kind)) for i in self._layers])
                    for tap, kind in zip(TAPS, (mx.uint32, mx.float32))
                )
                self._add(call["start"] or 0, ids, experts.astype(np.uint16), weights)
        self._flusher.mark()

    def _add(self, start: int, ids, experts, weights) -> None:
        """Put the results of tokens ``start ...`` in place, (layers, n, k)."""
        if start > len(self._ids):  # what came before was computed before anyone watched
            self._clear()
            start = 0
        order = np.argsort(-weights, axis=-1, kind="stable")
        experts = np.take_along_axis(experts, order, axis=-1)
        weights = np.take_along_axis(weights, order, axis=-1)
        self._ids = np.concatenate([self._ids[:start], ids])
        self._experts = np.concatenate([self._experts[:, :start], experts], axis=1)
        self._weights = np.concatenate([self._weights[:, :start], weights], axis=1)

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

    def _finish_if_idle(self, last: dict) -> None:
        if self._calls and self._calls[-1] is last:
            from gemma4_mlx.generation import engine

            engine().submit(self._settle, len(self._calls))

    # ---- what a trace has -----------------------------------------------------------------------

    @property
    def tokens(self):
        """The tokens seen so far (``tracing.Tokens``)."""
        from gemma4_mlx.tracing.tokens import KINDS, Tokens, roles_of

        with self._lock:
            ids = self._ids
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
        from gemma4_mlx.tracing import RoutingData

        if not self._experts_exist:
            return None
        tokens = self.tokens
        with self._lock:
            n = min(len(tokens), self._experts.shape[1])
            experts, weights = self._experts[:, :n], self._weights[:, :n]
        return RoutingData(self._layers, experts, weights, self._count, tokens, scale=self._scale)


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
