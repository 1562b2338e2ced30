"""Putting activations of one run in place of another's."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ...arguments import say_arguments
from ...errors import InterventionError
from ..data.ranges import ranges
from ..data.trace import Activations, Trace
from .choices import store_indices
from .interventions import OPEN, Intervention, check_indices, floats, span_of
from .plans import HEAD_OUTPUTS, KEEPABLE
from .scale import check_tap


@say_arguments(InterventionError)
@dataclass(frozen=True, eq=False, repr=False)
class Patch(Intervention):
    """Put activations of another run in place of this one's: "which layer carries the fact?"

    Args:
        layer: where.
        source: a trace recorded with an ActivationPlan, its activations, or an array (n, H); for
            "head_outputs" (heads, n, D), of all heads or of those named.
        tokens: positions to replace, by default all that the source has.
        source_tokens: the span they come from if it is another one (of the same length).
        tap: what is replaced: one of those that can be kept.
        heads: of "head_outputs" the heads to replace; None: all.

    Raises InterventionError for a tap that cannot be kept or that the model lacks, for a source of
    a wrong type, without these activations, of another size or too short, for spans that differ in
    length, and for heads that the model lacks or the tap does not have.
    """

    layer: int
    source: Trace | Activations | np.ndarray
    tokens: slice | tuple | None = None
    source_tokens: slice | tuple | None = None
    tap: str = "layer_output"
    heads: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.tap not in KEEPABLE:
            raise InterventionError(f"tap {self.tap!r}; there are {', '.join(KEEPABLE)}")
        if self.heads is not None:
            if self.tap != HEAD_OUTPUTS:
                raise InterventionError(f"{self.tap} has no heads: patch tap={HEAD_OUTPUTS!r}")
            store_indices(self, "heads", error=InterventionError)
        source = self._values()
        form = "(heads, n, D)" if self.tap == HEAD_OUTPUTS else "(n, H)"
        if source.ndim != form.count(",") + 1:
            raise InterventionError(f"activations have the shape {form}, not {source.shape}")
        n = source.shape[-2]
        first, last = span_of(self.source_tokens) or (0, n)
        target = span_of(self.tokens) or (first, last)
        last, until = min(last, n), target[1]
        if until == OPEN:
            until = target[0] + last - first
        if not 0 <= first < last or until - target[0] != last - first:
            raise InterventionError(
                f"positions {target[0]}:{until} take {until - target[0]} rows; the source gives "
                f"{first}:{last} of its {n}"
            )
        object.__setattr__(self, "source", source[..., first:last, :])
        object.__setattr__(self, "source_tokens", None)
        object.__setattr__(self, "tokens", (target[0], until))

    def _values(self) -> np.ndarray:
        """The source's activations of this tap and layer, of the named heads."""
        source = self.source.activations if isinstance(self.source, Trace) else self.source
        if source is None:
            raise InterventionError(
                "this trace kept no activations; trace with activations=ActivationPlan()"
            )
        if not isinstance(source, Activations):
            return floats(source, "what is patched in, a trace, its activations or an array,")
        if self.tap not in source.values or self.layer not in source.layers:
            raise InterventionError(
                f"the source kept {', '.join(source.values)} of layers "
                f"{ranges(source.layers)}, not {self.tap} of layer {self.layer}"
            )
        values = source.at(self.tap, self.layer)
        if self.heads is not None:
            check_indices(self.heads, len(values), "head", f" of layer {self.layer}", "the source")
            values = values[list(self.heads)]
        return values

    def check(self, model):
        check_tap(self.tap, model)
        text, size = model.config.text, self.source.shape[-1]
        if self.tap != HEAD_OUTPUTS:
            if size != text.hidden_size:
                raise InterventionError(
                    f"the source's activations have {size} numbers, this model's {text.hidden_size}"
                )
            return
        count, of = text.num_attention_heads, f" of layer {self.layer}"
        if self.heads is not None:
            check_indices(self.heads, count, "head", of)
            count = len(self.heads)
        wanted = count, text.head_dim_of(self.layer)
        if (len(self.source), size) != wanted:
            raise InterventionError(
                f"the source has {len(self.source)} heads of {size} numbers; patched are "
                f"{wanted[0]} heads{of} of {wanted[1]} numbers"
            )

    def taps(self):
        return (self.tap,)

    def change(self, name, value, seen, start):
        n, first = value.shape[-2], self.tokens[0]
        low, high = max(start, first), min(start + n, first + self.source.shape[-2])
        if low >= high:
            return None
        here = slice(low - start, high - start)
        rows = mx.array(self.source[..., low - first : high - first, :]).astype(value.dtype)[None]
        rows = mx.broadcast_to(rows, (value.shape[0], *rows.shape[1:]))
        if self.heads is not None:
            every = mx.array(value[:, :, here])  # a copy, into which the heads are put
            every[:, mx.array(self.heads)] = rows
            rows = every
        parts = [value[..., : here.start, :], rows, value[..., here.stop :, :]]
        return mx.concatenate(parts, axis=-2)
