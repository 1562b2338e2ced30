"""The low-rank updates beside a model's layers, as one thing: scaled, switched off, merged.

The layers are mlx-lm's (``mlx_lm.tuner``): ``y = base(x) + scale * (x @ lora_a) @ lora_b``, and
for DoRA each row of the updated matrix at the learned length ``m``. It does not matter whether
``load`` put them there or mlx-lm's tuner did.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten

from ..errors import CheckpointError


def adapted(model: nn.Module) -> dict[str, nn.Module]:
    """Path -> layer with a low-rank update, of all that the model has."""
    return {path: layer for path, layer in model.named_modules() if "lora_a" in layer}


def base_of(layer: nn.Module) -> nn.Module:
    """The layer without its update."""
    return layer.linear if "linear" in layer else layer.embedding


def merged(layer: nn.Module) -> nn.Module:
    """A layer without an update, whose weights are the updated ones.

    A packed base is packed again in the same way, so that its weights are rounded once more.

    Raises CheckpointError for PEFT's update of an embedding that is the head as well: it changes
    the one and not the other, and they are one matrix.
    """
    if getattr(layer, "lookup_only", False):
        raise CheckpointError(
            "this adapter changes the embeddings and not the head, and in this model they are one "
            "matrix: it cannot be merged"
        )
    base = base_of(layer)
    fused = type(base).__new__(type(base))
    fused.__dict__.update(base.__dict__)
    dict.update(fused, base)
    packed = "scales" in base
    weight = base.weight.astype(mx.float32)
    if packed:
        how = dict(group_size=base.group_size, bits=base.bits, mode=base.mode)
        weight = mx.dequantize(
            base.weight, base.scales, base.get("biases"), dtype=mx.float32, **how
        )
    a, b = layer.lora_a.astype(mx.float32), layer.lora_b.astype(mx.float32)
    if a.ndim == 3:  # experts: (E, r, I) and (E, O, r)
        update = b @ a
    else:
        update = (a @ b).T if "linear" in layer else a @ b
    weight = weight + layer.scale * update
    if "m" in layer:
        weight = weight * (layer.m / mx.linalg.norm(weight, axis=1))[:, None]
    if not packed:
        fused.weight = weight.astype(base.weight.dtype)
        return fused
    fused.weight, scales, *biases = mx.quantize(weight, **how)
    fused.scales = scales.astype(base.scales.dtype)
    if biases:
        fused.biases = biases[0].astype(base.biases.dtype)
    return fused


class Adapter:
    """What is adapted in a model; from ``model.adapter``.

    Change it between generations, not during one: the layers are the model's own.
    """

    def __init__(self, model: nn.Module, layers: dict[str, nn.Module]):
        self._model, self._layers = model, layers

    def __repr__(self) -> str:
        return f"Adapter({len(self._layers)} layers, scale {self.scale:g})"

    @property
    def layers(self) -> tuple[str, ...]:
        """Paths of the adapted layers."""
        return tuple(self._layers)

    @property
    def scale(self) -> float:
        """How much of the update counts: 1 as it was trained. Can be set."""
        return getattr(next(iter(self._layers.values())), "adapter_scale", 1.0)

    @scale.setter
    def scale(self, scale: float) -> None:
        for layer in self._layers.values():
            if not hasattr(layer, "trained_scale"):
                layer.trained_scale = layer.scale
            layer.adapter_scale = float(scale)
            layer.scale = layer.trained_scale * layer.adapter_scale

    @contextmanager
    def off(self) -> Iterator[None]:
        """The model without the adapter for the duration of a ``with`` block."""
        self._put({path: base_of(layer) for path, layer in self._layers.items()})
        try:
            yield
        finally:
            self._put(self._layers)

    @contextmanager
    def merged(self) -> Iterator[None]:
        """The model with the adapter in its weights for the duration of a ``with`` block."""
        self._put({path: merged(layer) for path, layer in self._layers.items()})
        try:
            yield
        finally:
            self._put(self._layers)

    def _put(self, layers: dict[str, nn.Module]) -> None:
        self._model.update_modules(tree_unflatten(list(layers.items())))


class Fingerprint:
    """SHA-256 of a checkpoint's fingerprint and of the updates in force, worked out again only
    where an array or a scale is another."""

    def __init__(self):
        self._seen: tuple = ()
        self._digest = ""

    def of(self, checkpoint: str, layers: dict[str, nn.Module]) -> str:
        if not layers:
            return checkpoint
        seen = (checkpoint, [(path, layer.scale) for path, layer in layers.items()])
        arrays = [
            layer[name] for layer in layers.values() for name in ("lora_a", "lora_b", "m")
            if name in layer
        ]  # fmt: skip
        if not self._seen or seen != self._seen[0] or not _same(arrays, self._seen[1]):
            digest = hashlib.sha256(repr(seen).encode())
            for array in arrays:
                digest.update(np.array(array.astype(mx.float32)).tobytes())
            self._seen, self._digest = (seen, arrays), digest.hexdigest()
        return self._digest


def _same(arrays: list, others: list) -> bool:
    return len(arrays) == len(others) and all(a is b for a, b in zip(arrays, others))
