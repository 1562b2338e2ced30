"""A trace's queries and keys: kept by the plan, or computed by running the model again.

Tiles and rows of the map, and the ranking of heads, read them here, one head and span at a time.
"""

import threading
from collections import OrderedDict
from contextlib import suppress

import numpy as np

from ...errors import TraceError
from . import tiles
from .layer_attention import LayerAttention, Vectors
from .ranges import ranges
from .tiles import checked_span
from .visibility import key_range


class QueriesAndKeys:
    """The traced layers, and the queries and keys of their heads."""

    def __init__(self, n: int, width: int, layers: list[LayerAttention], blocks=None):
        self.n, self.width = n, width
        self.blocks = blocks
        self._layers = {part.layer: part for part in layers}
        self.rerun, self.room = None, 0
        self._computed: OrderedDict[int, Vectors] = OrderedDict()  # least recently used first
        self._lock = threading.RLock()

    # Layers and what is kept of them

    @property
    def layers(self) -> tuple[int, ...]:
        """Traced layers."""
        return tuple(self._layers)

    @property
    def parts(self) -> tuple[LayerAttention, ...]:
        """The arrays and properties of each traced layer."""
        return tuple(self._layers.values())

    @property
    def retained(self) -> tuple[int, ...]:
        """Layers with queries and keys in memory or in the file, of some heads at least: see
        :meth:`exactness`."""
        return tuple(
            i for i, part in self._layers.items() if part.queries is not None or self._ready(i)
        )

    def _ready(self, layer: int) -> bool:
        return layer in self._computed

    def exactness(self, layer: int, head: int | None = None) -> str:
        """Where tiles and rows of a head come from; without ``head``, for the worst of the layer.

        "kept": recomputed from queries and keys that are available. "on demand": the same, after
        the model has run again up to this layer (see :meth:`compute`). "pooled": there is nothing
        finer than the bins of the overview.

        Raises TraceError for a layer or head that was not traced.
        """
        part = self.layer(layer)
        if head is not None:
            self.part_and_head(layer, head)
        heads = part.heads if head is None else (head,)
        if self._ready(layer) or set(heads) <= set(part.kept):
            return "kept"
        return "on demand" if self.rerun is not None and not self.rerun.obstacle() else "pooled"

    def why_not(self, layer: int, head: int | None = None) -> str | None:
        """A sentence that says why :meth:`exactness` is not "kept" and which plan would make it so;
        None if it is "kept".

        Raises TraceError for a layer or head that was not traced.
        """
        state = self.exactness(layer, head)
        if state == "kept":
            return None
        kept = self.layer(layer).kept
        of = f"of layer {layer}" + (f" only those of heads {ranges(kept)}" if kept else "")
        what = f"Queries and keys {of} were {'' if kept else 'not '}kept"
        plan = f"g4.AttentionPlan(retain=({layer},)) keeps them"
        if state == "on demand":
            return f"{what}; the model runs again up to this layer to show single weights ({plan})."
        obstacle = self.rerun.obstacle() if self.rerun is not None else "no model is at hand"
        return (
            f"{what} and {obstacle}, so it is drawn from bins of {self.width} tokens (a trace with "
            f"{plan})."
        )

    def compute(self, *layers: int, progress=None) -> None:
        """Make the queries and keys of these layers available; runs the model again if need be.

        The prompt is read once more up to the last of these layers, chunk by chunk, which gives the
        queries and keys of the traced run, to the bit. They are kept until others need the room
        (``room`` bytes). ``progress`` is called with a ``Progress`` after every chunk; an exception
        from it stops the run, and so does Ctrl-C.

        Raises TraceError for a layer that was not traced, if the model is gone or would now
        compute something else (other interventions, other weights), and if the layers take more
        room than there is.
        """
        wanted = [i for i in dict.fromkeys(layers) if self.exactness(i) != "kept"]
        if not wanted:
            return
        with self._lock:
            for layer in wanted:
                self._check_can_compute(layer)
            held = [i for i in layers if i in self._computed]
            size = sum(map(self._size, [*wanted, *held]))
            if size > self.room:
                raise TraceError(
                    f"the queries and keys of layers {ranges(wanted)} take {size / 2**20:,.1f} "
                    f"MiB, and there is room for {self.room / 2**20:,.1f}: compute fewer at a time"
                )
            others = [i for i in self._computed if i not in held]
            while others and size + sum(self._computed[i].nbytes for i in others) > self.room:
                del self._computed[others.pop(0)]
            everything = slice(0, self.n)
            spans = {i: (self._layers[i].heads, everything, everything) for i in wanted}
            found = self.fetch(spans, progress)
            for layer, vectors in found.items():
                self._check_same(self._layers[layer], vectors)
            self._computed |= found

    def _check_can_compute(self, layer: int) -> None:
        if self.exactness(layer) == "pooled":
            raise TraceError(self.why_not(layer))

    def _size(self, layer: int) -> int:
        part = self._layers[layer]
        return self.rerun.bytes_of(layer, len(part.heads)) * self.n

    def head_dim(self, layer: int) -> int:
        """Numbers of a head's queries and keys, in a layer whose :meth:`exactness` is not "pooled".

        Raises TraceError for a layer that was not traced.
        """
        vectors = self.at_hand(self.layer(layer))
        return self.rerun.head_dim(layer) if vectors is None else vectors.queries.shape[-1]

    def _check_same(self, part: LayerAttention, vectors: Vectors) -> None:
        """Raise TraceError if recomputed weights of some queries do not sum to 1 with the traced
        run's normalisers: then the model's weights have changed since."""
        blocks, head = self.blocks_of(part), part.heads[-1]
        for query in {0, self.n // 2, self.n - 1}:
            rows = slice(query, query + 1)
            keys = slice(*key_range(query, query + 1, part.window, blocks))
            q, k = vectors.queries_of(head, rows), vectors.keys_of(part.kv_head(head), keys)
            weights = tiles.weights(
                q, k, part.normaliser[-1][rows], rows, keys, part.window, blocks
            )
            if not abs(float(weights.sum()) - 1) < 1e-2:
                raise TraceError(
                    f"the model computes other queries and keys in layer {part.layer} than when "
                    "this was traced: its weights were changed. Trace again"
                )

    def queries(self, layer: int, head: int, tokens=slice(None)) -> np.ndarray:
        """The queries of some tokens, after norm and rotation: float32 (r, D).

        Raises TraceError for a layer, head or span that does not exist, and for a layer that was
        not kept and cannot be computed.
        """
        part, _ = self.part_and_head(layer, head)
        rows = checked_span(tokens, self.n, "tokens")
        return self._vectors(part, head, rows, slice(0, 0)).queries_of(head, rows)

    def keys(self, layer: int, head: int, tokens=slice(None)) -> np.ndarray:
        """The keys of some tokens in the KV head that a query head uses: float32 (c, D).

        Raises TraceError as :meth:`queries`."""
        part, _ = self.part_and_head(layer, head)
        rows = checked_span(tokens, self.n, "tokens")
        return self._vectors(part, head, slice(0, 0), rows).keys_of(part.kv_head(head), rows)

    def layer(self, layer: int) -> LayerAttention:
        """One layer's arrays and properties: type, window, donor, heads, KV heads.

        Raises TraceError for a layer that was not traced.
        """
        if layer not in self._layers:
            raise TraceError(
                f"layer {layer} has no attention in this trace; traced: {ranges(self.layers)}"
            )
        return self._layers[layer]

    def heads(self, layer: int) -> tuple[int, ...]:
        """Traced heads of a layer. Raises TraceError for a layer that was not traced."""
        return self.layer(layer).heads

    def part_and_head(self, layer: int, head: int) -> tuple[LayerAttention, int]:
        part = self.layer(layer)
        if head not in part.heads:
            raise TraceError(
                f"layer {layer} has no traced head {head}; traced: {ranges(part.heads)} "
                f"of {part.all_heads} heads"
            )
        return part, part.heads.index(head)

    def blocks_of(self, part: LayerAttention):
        return self.blocks if part.window is not None else None

    def at_hand(self, part: LayerAttention, head: int | None = None) -> Vectors | None:
        """Retained or computed queries and keys of all tokens, including those of ``head``, or
        without it of as many heads as possible; None if there are none."""
        vectors = self._computed.get(part.layer)
        if head in part.kept or (head is None and part.kept and vectors is None):
            keys = part.keys if part.keys is not None else self._layers[part.donor].keys
            return Vectors(part.kept, part.queries, keys, part.dtype)
        if vectors is not None:
            with suppress(KeyError):  # another thread may just have removed it to make room
                self._computed.move_to_end(part.layer)
        return vectors

    def _vectors(self, part: LayerAttention, head: int, queries: slice, keys: slice) -> Vectors:
        """A head's queries and keys of some tokens at least, computed if need be."""
        if (vectors := self.at_hand(part, head)) is not None:
            return vectors
        with self._lock:
            self._check_can_compute(part.layer)
            if self._size(part.layer) <= self.room:
                self.compute(part.layer)
                return self._computed[part.layer]
            return self.fetch({part.layer: ((head,), queries, keys)})[part.layer]

    def fetch(self, spans: dict, progress=None) -> dict[int, Vectors]:
        """Run the model again for the queries and keys of some heads and spans of tokens alone.

        ``spans`` {layer: (heads, query span, key span)}; what is found is not kept. ``progress``
        and errors as in :meth:`compute`.
        """
        with self._lock:
            return self.rerun.run(spans, progress)

    def loaders(self, part: LayerAttention, h: int, queries: slice, keys: slice):
        head = part.heads[h]
        vectors = self._vectors(part, head, queries, keys)

        def load_q(rows: slice):
            return vectors.queries_of(head, rows)

        def load_k(rows: slice):
            return vectors.keys_of(part.kv_head(head), rows)

        return load_q, load_k, np.asarray(part.normaliser[h])
