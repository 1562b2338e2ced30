"""Recording attention during a forward pass: strip by strip, layer by layer.

At the ``keys`` tap a layer's queries and keys are evaluated, so that no chunk's scores wait in a
graph, and reduced by :func:`.strips.score_strip`. This happens beside the model's own computation
and does not change it.

Scores are float32 products. On some GPUs MLX multiplies float32 in TF32 by default: that is exact
for 16-bit models, whose values fit into TF32, but loses digits for float32 models unless
``MLX_ENABLE_TF32=0`` is set.
"""

import math
import warnings
from contextlib import contextmanager

import mlx.core as mx
import numpy as np

from ...errors import TraceError
from ...model.ops import on_cpu
from ..data.attention import AttentionData
from ..data.layer_attention import LayerAttention
from ..data.maps import PooledMap
from ..data.offsets import offset_edges, records_offsets
from ..data.visibility import key_range
from . import strips_cpu, strips_gpu
from .attention_plan import AttentionPlan
from .buffers import MappedFile, TokenBuffer
from .room import full_disk, ready_folder, room
from .strips import score_strip
from .vectors import VectorStore

#: Rows of a sliding layer's strip, unless its window is longer. With fewer rows, the fixed cost of
#: a strip weighs more; with more, a larger part of its scores is masked.
ROWS = 256


class AttentionRecorder:
    """Collects one run's attention according to a plan.

    Args:
        model: the model that runs
        plan: what to keep
        expected: tokens the run will have, 0 if unknown: bins then start narrow and double
    """

    TAPS = ("queries", "keys")

    def __init__(self, model, plan: AttentionPlan, expected: int = 0):
        self.plan, self.text = plan, model.config.text
        self.layers, self.heads = plan.chosen_layers(model), plan.chosen_heads(model)
        self.retention = plan.retention(model, expected or 1)
        self.retained = self.retention.layers
        self.expected = expected
        self.limit = self.retention.limit
        if plan.retain == "auto" and not expected:  # a run that may become long
            there = room(plan.folder)
            self.limit = (
                getattr(there, self.retention.storage) if plan.budget is None else plan.budget
            )
        self.bins = min(plan.bins, expected) if expected else plan.bins
        self.width = -(-expected // self.bins) if expected else 1
        self.device = strips_cpu if on_cpu() else strips_gpu
        self.file = self._new_file() if self.retained else None
        self.parts = {layer: _Part(self, layer) for layer in self.layers}
        self.blocks = np.zeros(0, np.int32)  # of every position so far
        self._queries = None

    def _new_file(self) -> MappedFile | None:
        """A file for the queries and keys of all layers; None if they stay in memory."""
        on_disk = self.retention.storage == "disk"
        return MappedFile(ready_folder(self.plan.folder)) if on_disk else None

    def observe(self, name, layer, value, geometry, tokens, marks) -> None:
        """Called at the taps ``queries`` and then ``keys`` of each layer. ``tokens`` (n,): all ids
        so far.

        Raises TraceError for a call with more than one sequence, and where an intervention changes
        what the layer's attention weighs.
        """
        if layer not in self.parts:
            return
        if geometry.changes:
            raise TraceError(
                f"the attention of layer {layer} cannot be traced while Knockout or Attend changes "
                "it: name the other layers, as AttentionPlan(layers=...)"
            )
        if name == "queries":
            self._queries = value
            return
        q, k, self._queries = self._queries, value, None
        if q.shape[0] != 1:
            raise TraceError(f"a trace records one sequence, this call has {q.shape[0]}")
        mx.eval(q, k)
        stop = geometry.query_start + geometry.n
        self._note_blocks(geometry, stop)
        part = self.parts[layer]
        part.map.make_room(stop, self.blocks if part.window else None)
        with self._or_pooled():
            if layer in self.retained:
                part.vectors.put(q[0], k[0], geometry.query_start, geometry.n)
        self._reduce(part, q[0], k[0], geometry, tokens, marks)
        with self._or_pooled():
            if layer == self.layers[-1]:
                self._stay_within(stop)

    @contextmanager
    def _or_pooled(self):
        """If the disk is full, drop all queries and keys with a warning, and go on without them."""
        try:
            yield
        except OSError as error:
            for part in self.parts.values():
                part.vectors = None
            self.retained, self.file = (), None
            warnings.warn(
                f"queries and keys are not kept: {full_disk(self.plan.folder, error)}. Attention "
                "is drawn from bins, and single weights by running the model again",
                stacklevel=2,
            )

    def _stay_within(self, n: int) -> None:
        """Drop the queries of the least interesting heads once the limit is exceeded."""
        stores = {i: part.vectors for i, part in self.parts.items() if part.vectors is not None}
        if self.limit is None or sum(store.nbytes for store in stores.values()) <= self.limit:
            return
        heads = [(i, head) for i, store in stores.items() for head in store.heads]
        heads.sort(key=lambda each: self.parts[each[0]].interest(each[1], n), reverse=True)
        horizon = self.expected if n <= self.expected else 2 * n
        left, keys, kept = self.limit // horizon, set(), {i: [] for i in stores}
        for layer, head in heads:
            donor = self.parts[layer].donor
            owner = donor if donor in stores else layer
            size = stores[layer].queries[0, :1].nbytes
            more = 0 if owner in keys else stores[owner].keys[:, :1].nbytes
            if size + more <= left:
                left -= size + more
                keys.add(owner)
                kept[layer].append(head)
        self.file = self._new_file()  # the old one is freed once nothing refers to it
        for layer, store in stores.items():
            store.keep(tuple(sorted(kept[layer])), layer in keys, self.file)

    def _note_blocks(self, geometry, stop: int) -> None:
        """Number the picture blocks of the whole context; a call numbers them from 0."""
        known = len(self.blocks)
        if known < stop:
            self.blocks = np.pad(self.blocks, (0, stop - known), constant_values=-1)
            self._numbered = False
        if geometry.blocks is not None and not self._numbered:
            here = np.array(geometry.blocks[0])
            offset = self.blocks.max(initial=-1) + 1
            self.blocks[geometry.query_start : stop] = np.where(here >= 0, here + offset, -1)
            self._numbered = True

    def _reduce(self, part, q, k, geometry, tokens, marks) -> None:
        width = part.map.width
        q, k = q.astype(mx.float32), k.astype(mx.float32)
        group = self.text.num_attention_heads // part.kv_heads
        if len(self.heads) < self.text.num_attention_heads:
            q, k = q[mx.array(self.heads)], k[mx.array(self.heads) // group]
            group = 1
        # The first and last bin must be whole: pad the keys with columns that are masked.
        first = geometry.key_start // width * width
        last = -(-(geometry.key_start + geometry.m) // width) * width
        ends = (geometry.key_start - first, last - geometry.key_start - geometry.m)
        k = mx.pad(k, [(0, 0), ends, (0, 0)])
        q, kt, reduce = self.device.ready(q, k)
        q = q.reshape(-1, group, *q.shape[1:])
        blocks = self.blocks if part.window and (self.blocks >= 0).any() else None
        tokens = _by_word(tokens, marks) if self.plan.summaries else None
        at, stop = geometry.query_start, geometry.query_start + geometry.n
        begun = None  # the strip that is being computed while the next is submitted
        while at < stop:
            reach = stop if part.window is None else min(stop - at, max(part.window, ROWS)) * 2
            rows = max(1, self.device.SCORES // (len(self.heads) * reach))
            if part.window is not None:
                rows = min(rows, max(part.window, ROWS))
            end = min(at + rows, stop)
            low, high = key_range(at, end, part.window, blocks)
            low, high = low // width * width, -(-high // width) * width
            rows_q = q[:, :, at - geometry.query_start : end - geometry.query_start]
            strip = score_strip(
                reduce,
                rows_q,
                kt[..., low - first : high - first],
                at,
                low,
                width,
                window=part.window,
                blocks=blocks,
                tokens=tokens,
                marks=marks if self.plan.summaries else None,
                offset_edges=part.offset_edges,
            )
            if begun is not None:
                part.add(begun(), stop)
            begun, at = strip, end
        part.add(begun(), stop)

    def result(self, n: int) -> AttentionData:
        """What was recorded of ``n`` tokens."""
        widths = {part.map.width for part in self.parts.values()}
        blocks = self.blocks if (self.blocks >= 0).any() else None
        return AttentionData(
            n, widths.pop(), [part.result(n) for part in self.parts.values()], blocks
        )


class _Part:
    """One layer being recorded."""

    def __init__(self, recorder: AttentionRecorder, layer: int):
        text, plan = recorder.text, recorder.plan
        self.layer, self.plan, self.heads = layer, plan, recorder.heads
        self.type = text.layer_types[layer]
        self.window = None if text.is_full(layer) else text.sliding_window
        self.donor, self.kv_heads = text.kv_donor(layer), text.kv_heads_of(layer)
        self.all_heads = text.num_attention_heads
        H, expected = len(self.heads), recorder.expected
        self.offset_edges = None
        if (
            self.window
            and plan.overview
            and expected
            and records_offsets(self.window, recorder.width)
        ):
            self.offset_edges = offset_edges(self.window)
        self.map = PooledMap(H, recorder.bins, recorder.width, self.window, plan.overview)
        self.normaliser = TokenBuffer((H,), np.float32, expected)
        self.columns = TokenBuffer((H,), np.float32, expected) if plan.columns else None
        self.links = [np.zeros((H, 0), dtype) for dtype in (np.float32, np.int32, np.int32)]
        self.vectors = None
        if layer in recorder.retained:
            shared = self.donor != layer and self.donor in recorder.retained
            keys = {"keys": None} if shared else {}
            self.vectors = VectorStore(self.heads, self.all_heads, expected, recorder.file, **keys)

    def interest(self, head: int, n: int) -> tuple[bool, float]:
        """Sort key of heads worth keeping, by the summaries of the first ``n`` tokens: full layers
        first, then heads with much and sharp mass on tokens other than the first and the previous.
        """
        sums = {name: each[self.heads.index(head)].sum() for name, each in self.map.sums(n).items()}
        if not sums:
            return self.window is None, 0.0
        elsewhere = 1 - (sums["first"] + sums["previous"]) / n
        return self.window is None, elsewhere * (1 - sums["entropy"] / n / math.log(max(n, 2)))

    def add(self, strip, n: int) -> None:
        statistics = strip.statistics if self.plan.summaries else {}
        self.map.add(strip.start, strip.first_key, strip.mass, strip.peak, statistics)
        if strip.offsets is not None:
            self.map.add_offsets(strip.start, strip.offsets)
        self.normaliser.put(strip.start, strip.normaliser)
        if self.columns is not None:
            first, end = max(strip.first_key, 0), min(n, strip.first_key + strip.columns.shape[1])
            sums = strip.columns[:, first - strip.first_key : end - strip.first_key]
            self.columns.room(n)[:, first:end] += sums
        if self.plan.links:
            self._add_links(strip)

    def _add_links(self, strip) -> None:
        H, r = strip.link_weights.shape
        rows = np.broadcast_to(np.arange(strip.start, strip.start + r), (H, r))
        new = (strip.link_weights, rows, strip.link_keys)
        links = [np.concatenate([old, n], axis=1) for old, n in zip(self.links, new)]
        if links[0].shape[1] > self.plan.links:
            best = np.argpartition(-links[0], self.plan.links - 1, axis=1)[:, : self.plan.links]
            links = [np.take_along_axis(each, best, axis=1) for each in links]
        self.links = links

    def result(self, n: int) -> LayerAttention:
        mass, peak = self.map.trimmed(n) if self.plan.overview else (None, None)
        vectors = self.vectors
        order = np.argsort(-self.links[0], axis=1, kind="stable")
        weights, queries, keys = (np.take_along_axis(x, order, axis=1) for x in self.links)
        return LayerAttention(
            layer=self.layer,
            type=self.type,
            window=self.window,
            donor=self.donor,
            heads=self.heads,
            all_heads=self.all_heads,
            kv_heads=self.kv_heads,
            normaliser=self.normaliser.values,
            mass=mass,
            peak=peak,
            back=self.map.back,
            columns=None if self.columns is None else self.columns.values,
            offset_mass=self.map.mean_offsets(n),
            statistics=self.map.sums(n),
            link_weights=weights.astype(np.float32) if self.plan.links else None,
            link_queries=queries.astype(np.int32) if self.plan.links else None,
            link_keys=keys.astype(np.int32) if self.plan.links else None,
            queries=vectors.queries if vectors is not None and vectors.heads else None,
            keys=None if vectors is None else vectors.keys,
            dtype="float32" if vectors is None else vectors.dtype,
            kept=() if vectors is None else vectors.heads,
        )


def _by_word(tokens: np.ndarray, marks: dict) -> np.ndarray:
    """Ids by which copies of a token are found. The soft tokens of a kind share one id but are no
    copies of each other, so each gets a negative id of its own."""
    for soft in marks.values():
        tokens = np.where(soft, -1 - np.arange(len(tokens)), tokens)
    return tokens
