"""Scaling what a part of the model gives, or taking it out."""

from dataclasses import dataclass

import mlx.core as mx

from ...arguments import say_arguments
from ...errors import InterventionError
from .interventions import Intervention, check_factor
from .plans import HEAD_OUTPUTS, KEEPABLE

#: Taps of the model as a whole, which have no layer.
WHOLE = ("embeddings", "per_layer_inputs")
#: Taps whose values can be scaled. Of the heads' outputs that does ScaleHeads, head by head.
SCALABLE = (*WHOLE, "per_layer_input", *(tap for tap in KEEPABLE if tap != HEAD_OUTPUTS))


@say_arguments(InterventionError)
@dataclass(frozen=True, eq=False, repr=False)
class Scale(Intervention):
    """Multiply the value of a tap by ``factor``; 0 takes a part of the model out.

    Args:
        layer: where; None for the taps of the model as a whole.
        tap: what is scaled. What a layer's part adds to the stream: "mlp_output", "moe_output" (all
            experts), "feedforward_output" (both), "attention_output", "per_layer_output"; or what a
            layer reads: "layer_input", "attention_input", "attention_residual", "per_layer_input";
            or the whole stream, "layer_output". Of the model as a whole: "embeddings", with what is
            projected from them to per-layer embeddings, and "per_layer_inputs", of all layers.
        factor: a finite number.
        tokens: positions; None: all, generated ones too.

    Raises InterventionError for a tap that cannot be scaled or that the model does not have, for a
    layer that the model lacks or the tap does not have, and for a factor that is not finite.
    """

    layer: int | None
    tap: str
    factor: float = 0.0
    tokens: slice | tuple | None = None

    def __post_init__(self):
        if self.tap not in SCALABLE:
            raise InterventionError(f"tap {self.tap!r}; there are {', '.join(SCALABLE)}")
        check_factor(self.factor)

    def check_layer(self, layers: int) -> None:
        if self.tap not in WHOLE:
            super().check_layer(layers)
        elif self.layer is not None:
            raise InterventionError(f"{self.tap} are not of one layer: give layer=None")

    def check(self, model):
        check_tap(self.tap, model)

    def taps(self):
        return (self.tap,)

    def change(self, name, value, seen, start):
        return value * mx.array(self.factor, value.dtype)


def check_tap(tap: str, model) -> None:
    """Raises InterventionError for a tap that a model without its part never reaches."""
    text = model.config.text
    if tap == "moe_output" and not text.enable_moe_block:
        raise InterventionError("moe_output is what experts add, this model has none")
    if tap.startswith("per_layer") and not text.hidden_size_per_layer_input:
        raise InterventionError(f"{tap}: this model has no per-layer embeddings")
