"""A gain on every part of a layer: what the parts' shares are derivatives by.

Let a part write v where another run (or silence) has v'. With v + g (v - v') in its place, the
derivative of a score by g at g = 0 is

    d score / d g = (d score / d v) . (v - v'),

to first order by how much the score falls when v' takes v's place. With v' = 0 that is gradient x
input (Shrikumar et al. 2016), with v' from a corrupt prompt attribution patching (Nanda 2023; Syed
et al. 2023). One gain for a part at all positions sums over them, so all parts of a layer come with
the one backward pass that goes through it anyway.
"""

import mlx.core as mx

#: Taps at which a part's value is replaced, and the part.
VALUES = {"head_outputs": "heads", "mlp_output": "mlp", "per_layer_output": "per_layer"}


def gains_of(model) -> dict[str, mx.array]:
    """One zero for each part of a layer: heads (heads,), mlp (), experts (E,), per_layer ()."""
    text = model.config.text
    sizes = {"heads": (text.num_attention_heads,), "mlp": ()}
    if text.enable_moe_block:
        sizes["experts"] = (text.num_experts,)
    if text.hidden_size_per_layer_input:
        sizes["per_layer"] = ()
    return {name: mx.zeros(size) for name, size in sizes.items()}


def with_gains(tap, gains: dict[str, mx.array], experts: mx.array | None, other: dict | None):
    """A layer's tap with a gain on every part.

    Args:
        tap: the layer's own.
        gains: of :func:`gains_of`; empty for none.
        experts: (1, n, k) the experts that the run chose.
        other: another run's values of the taps that :func:`recording` keeps; None: silence.
    """
    other = other or {}

    def gained(name, value, geometry=None):
        value = tap(name, value, geometry)
        if name == "expert_indices":
            return experts
        if not gains:
            return value
        if name in VALUES:
            gain = gains[VALUES[name]]
            if name == "head_outputs":
                gain = gain[:, None, None]
            return value + (gain * (value - other.get(name, 0))).astype(value.dtype)
        # An expert's part is its output times its weight, so the gain may stand at the weight. The
        # experts that the other run chose join the sum, with the opposite gain as weight.
        if name == "expert_weights":
            value = value + gains["experts"][experts] * value
            if other:
                theirs = -gains["experts"][other["expert_indices"]] * other["expert_weights"]
                value = mx.concatenate([value, theirs], axis=-1)
        if name == "expert_outputs" and other:
            value = mx.concatenate([value, other["expert_outputs"]], axis=-2)
        return value

    return gained


def recording(tap, experts: mx.array | None, kept: dict):
    """A layer's tap that keeps in ``kept`` what :func:`with_gains` needs of another run."""

    def record(name, value, geometry=None):
        value = tap(name, value, geometry)
        if name == "expert_indices":
            value = experts
        if name in VALUES or name in ("expert_indices", "expert_weights", "expert_outputs"):
            kept[name] = value
        return value

    return record
