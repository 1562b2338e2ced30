"""An observer that records a trace of whatever the model computes.

    recorder = Recorder(model, TracePlan(routing=RoutingPlan()))
    with model.observe(recorder):
        ...                         # a prefill, a generation, a chat's answer
    trace = recorder.trace()

It changes nothing in the computation. Small results (chosen experts) are collected unevaluated and
converted later; attention is reduced layer by layer, see :mod:`.attention`.
"""

import time

import mlx.core as mx
import numpy as np

from ...errors import TraceError
from ...generation import engine
from ..data.trace import Activations, Timings, Trace
from .attention import AttentionRecorder
from .buffers import TokenBuffer
from .lens import LensRecorder
from .plans import HEAD_OUTPUTS, RoutingPlan, TracePlan, check_plan
from .routing import RoutingRecorder
from .tokens import media_of, tokens_of

#: Decode steps after which collected routing is converted: converting waits for the device, so
#: doing it at every step would slow decoding down.
PENDING = 32


class Recorder:
    """Records one sequence from its first token on.

    Where the model steps back in its cache (an edited or regenerated turn), a recorder of routing
    alone drops the tokens that were removed and goes on. Attention is summed over queries, and sums
    cannot be undone: with any other part in the plan, stepping back is an error. Record the
    conversation afterwards, with ``chat.trace()`` or ``trace(model, ids)``.

    Args:
        model: the model that will run
        plan: what to record; by default the routing of a model with experts, else attention
        expected: number of tokens, if it is known; saves regrouping of overviews
        inputs: the prompt's ``ModelInputs``, for the places of soft tokens in their media
        facts: what :func:`model_facts` gives, if it is known; to look through a model takes longer
            than to read a few tokens

    Raises TraceError, here or while the model runs: no plan for a model without experts, another
    thing than a TracePlan, one for what the model does not have, batches, padding, and a cache that
    was not empty when recording began.
    """

    def __init__(
        self, model, plan: TracePlan | None = None, expected: int = 0, inputs=None, facts=None
    ):
        self.model, self.inputs, self._facts = model, inputs, facts
        if plan is None:
            has_experts = model.config.text.enable_moe_block
            plan = TracePlan(routing=RoutingPlan()) if has_experts else None
        if plan is None:
            raise TraceError("this model has no experts: give the recorder a plan")
        check_plan(plan)
        self.plan = plan
        self._handlers: dict[str, list] = {}
        self.routing = self.attention = self.lens = self.activations = None
        if plan.routing is not None:
            self.routing = RoutingRecorder(model, plan.routing)
        if plan.attention is not None:
            self.attention = AttentionRecorder(model, plan.attention, expected)
        if plan.lens is not None:
            self.lens = LensRecorder(model, plan.lens)
        if plan.activations is not None:
            self.activations = _ActivationRecorder(model, plan.activations, expected)
        for part in (self.routing, self.attention, self.lens, self.activations):
            for name in part.TAPS if part is not None else ():
                self._handlers.setdefault(name, []).append(part)
        self._pending_tokens: list[mx.array] = []
        self._ids = np.zeros(0, np.int32)
        self._n, self._placed = 0, False
        self._starts: list[tuple[int, int, float]] = []  # first token, stop, time
        self._stopped_at: float | None = None
        self._interventions: list = []
        self._on_engine = False

    def __call__(self, name, layer, value, geometry) -> None:
        if name == "tokens":
            self._begin(value)
            return
        if geometry is not None and not self._placed:
            self._check_place(geometry)
        if handlers := self._handlers.get(name):
            for part in handlers:
                if part is self.attention:
                    ids = self._all_ids()
                    marks = self._marks(ids) if name == "keys" else {}
                    part.observe(name, layer, value, geometry, ids, marks)
                elif part is self.lens:
                    part.observe(layer, value, self._all_ids())
                else:
                    part.observe(name, layer, value)
        if name == "final_hidden" and value.shape[1] > 1:
            self._settle()  # a prompt's upper layers would otherwise wait with their inputs

    def _begin(self, tokens: mx.array) -> None:
        """A call of the model starts."""
        if tokens.shape[0] != 1:
            raise TraceError(f"a trace records one sequence, this call has {tokens.shape[0]}")
        n = tokens.shape[1]
        if self._n + n > len(self._ids) + PENDING or n > 1:
            self._settle()
        self._on_engine = engine().on_engine_thread()
        self._pending_tokens.append(tokens)
        self._starts.append((self._n, self._n + n, time.perf_counter()))
        self._stopped_at, self._placed = None, False
        self._n += n
        if self.routing is not None:
            self.routing.begin()
        for key in self.model.interventions:
            if key not in self._interventions:
                self._interventions.append(key)

    def _check_place(self, geometry) -> None:
        self._placed, seen = True, self._n - geometry.n
        if geometry.left_padding is not None:
            raise TraceError("a trace records one sequence without padding")
        if geometry.query_start == seen:
            return
        place = f"the recorder has seen {seen} tokens and the model goes on at "
        if geometry.query_start > seen:
            raise TraceError(f"{place}{geometry.query_start}: record from an empty cache on")
        if self.attention or self.lens or self.activations:
            raise TraceError(
                f"{place}{geometry.query_start}, it stepped back: only a recorder of routing "
                "alone follows. Trace the conversation as it now is, with chat.trace() or trace()"
            )
        self._step_back(geometry.query_start, geometry.n)

    def _step_back(self, position: int, n: int) -> None:
        """Forget the tokens from ``position`` on; ``n`` new ones take their place."""
        current = self._pending_tokens.pop()
        self._ids = self._all_ids()[:position]
        self._pending_tokens = [current]
        self._n = position + n
        *earlier, (_, _, now) = self._starts
        kept = [(a, min(b, position), at) for a, b, at in earlier if a < position]
        self._starts = [*kept, (position, position + n, now)]
        self.routing.step_back(position)

    def _all_ids(self) -> np.ndarray:
        """Ids of all tokens so far, (n,) int32."""
        if self._pending_tokens:
            new = [np.array(t[0]).astype(np.int32) for t in self._pending_tokens]
            self._ids = np.concatenate([self._ids, *new])
            self._pending_tokens = []
        return self._ids

    def _settle(self) -> None:
        """Convert what was collected. MLX requires the thread that computed it."""
        self._all_ids()
        if self.routing is not None:
            self.routing.settle()

    def finish(self) -> None:
        """Convert what was collected, from any thread; called by :meth:`trace`."""
        if self._stopped_at is None:
            self._stopped_at = time.perf_counter()
        if self._on_engine and not engine().on_engine_thread():
            engine().run(self._settle)
        else:
            self._settle()

    def _marks(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Where soft tokens of each kind are, for kinds that occur."""
        config = self.model.config
        marks = {
            kind: ids == getattr(config, f"{kind}_token_id") for kind in ("image", "video", "audio")
        }
        return {kind: mark for kind, mark in marks.items() if mark.any()}

    def trace(self) -> Trace:
        """The trace of everything seen so far. Raises TraceError if nothing ran."""
        if not self._n:
            raise TraceError("nothing ran under this recorder, there is nothing to trace")
        self.finish()
        ids = self._all_ids()
        tokens = tokens_of(self.model, ids, self.inputs)
        trace = Trace(tokens, timings=self._timings(), plan=str(self.plan))
        trace.interventions = tuple(map(str, self._interventions))
        trace.model = self._facts or model_facts(self.model)
        if self.inputs is not None:
            trace.media = media_of(self.inputs)
        if self.routing is not None:
            trace.routing = self.routing.result(tokens)
        if self.attention is not None:
            trace.attention = self.attention.result(len(ids))
        if self.lens is not None:
            trace.lens = self.lens.result(self.model)
        if self.activations is not None:
            trace.activations = self.activations.result()
        return trace

    def _timings(self) -> Timings:
        ends = [start[2] for start in self._starts[1:]] + [self._stopped_at]
        calls = [(a, b, end - at) for (a, b, at), end in zip(self._starts, ends)]
        chunks = tuple(call for call in calls if call[1] - call[0] > 1 or call[0] == 0)
        decode = tuple(seconds for a, b, seconds in calls if b - a == 1 and a > 0)
        return Timings(sum(call[2] for call in chunks), chunks, decode)


def model_facts(model) -> dict:
    """The properties of a model that a trace stores, ready for JSON."""
    text = model.config.text
    layers = range(text.num_hidden_layers)
    return {
        "source": model.source,
        "fingerprint": model.fingerprint,
        "model_type": model.config.model_type,
        "layer_types": list(text.layer_types),
        "sliding_window": text.sliding_window,
        "heads": text.num_attention_heads,
        "kv_heads": [text.kv_heads_of(i) for i in layers],
        "head_dims": [text.head_dim_of(i) for i in layers],
        "kv_donors": [text.kv_donor(i) for i in layers],
        "num_experts": text.num_experts if text.enable_moe_block else 0,
        "top_k_experts": text.top_k_experts if text.enable_moe_block else 0,
        "hidden_size": text.hidden_size,
        "dtype": str(model.dtype).removeprefix("mlx.core."),
    }


class _ActivationRecorder:
    """Whole activations of chosen taps."""

    def __init__(self, model, plan, expected: int):
        self.layers, self.TAPS = plan.chosen_layers(model), plan.taps
        self.dtype = str(model.dtype).removeprefix("mlx.core.")
        stored = np.float32 if self.dtype == "float32" else np.uint16
        stored = np.float16 if self.dtype == "float16" else stored
        text = model.config.text
        self._kept, self._rows = {}, {}  # by (tap, layer): a buffer, and the first row in it
        for tap in plan.taps:
            if tap != HEAD_OUTPUTS:
                every = TokenBuffer((len(self.layers), text.hidden_size), stored, expected)
            for row, layer in enumerate(self.layers):
                at = tap, layer
                if tap != HEAD_OUTPUTS:
                    self._kept[at], self._rows[at] = every, row
                    continue
                shape = text.num_attention_heads, text.head_dim_of(layer)
                self._kept[at], self._rows[at] = TokenBuffer(shape, stored, expected), 0
        self._n = dict.fromkeys(self._kept, 0)

    def observe(self, name, layer, value) -> None:
        if layer not in self.layers:
            return
        mx.eval(value)
        value = value.view(mx.uint16) if value.dtype == mx.bfloat16 else value
        value = value[0] if name == HEAD_OUTPUTS else value[:1]  # (rows, n, ...)
        at = name, layer
        self._kept[at].put(self._n[at], np.array(value), self._rows[at])
        self._n[at] += value.shape[1]

    def result(self) -> Activations:
        values = {}
        for tap in self.TAPS:
            buffers = [self._kept[tap, layer].values for layer in self.layers]
            values[tap] = tuple(buffers) if tap == HEAD_OUTPUTS else buffers[0]
        return Activations(self.layers, values, self.dtype)
