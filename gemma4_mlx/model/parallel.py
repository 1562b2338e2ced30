"""One model on several machines: its layers with the parts that one of them owns.

Each machine runs the same forward pass on its own parts (:mod:`.shares`) and the whole residual
stream. Where a product of parts is only a summand, the machines' outputs are summed: after a
layer's ``o_proj``, its ``down_proj`` and its experts. Tokens are looked up where their rows are,
and the logits of all rows joined. Everything travels through MLX's own ``mx.distributed``.
"""

from functools import cache

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..errors import ClusterError
from .cpu.blocks import evaluated
from .gemma4 import Model
from .moe import SORT_FROM, Experts, SwitchGLU
from .shares import Shares
from .taps import Tap

#: What only the machine has that talks to the user: pictures and sounds arrive as soft tokens.
TOWERS = ("vision_tower", "vision_embedder", "embed_vision", "audio_tower", "embed_audio")


class Together:
    """The machines of one model: what they send one another, and how much of it.

    Attributes:
        rank, size: this machine's number, and how many there are.
        messages, nbytes: sums and joins that this machine took part in so far, and the bytes of
            what it gave into them.

    One of them is under way at a time. MLX's ring tells of a lost machine by failing what is under
    way; what is begun after that waits without end, and could not be interrupted.
    """

    def __init__(self, group: mx.distributed.Group):
        self._group = group
        self.rank, self.size = group.rank(), group.size()
        self.messages = self.nbytes = 0
        self._under_way: mx.array | None = None

    def sum(self, x: mx.array) -> mx.array:
        """The sum of all machines' x, in x's type."""
        return self._send(x, mx.distributed.all_sum)

    def join(self, x: mx.array, lengths: list[int]) -> mx.array:
        """All machines' x side by side along the last axis, of which rank r has ``lengths[r]``."""
        missing = max(lengths) - x.shape[-1]
        if missing:
            x = mx.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
        y = self._send(x[None], mx.distributed.all_gather)
        return mx.concatenate([y[r, ..., :length] for r, length in enumerate(lengths)], axis=-1)

    def _send(self, x: mx.array, operation) -> mx.array:
        self.finish()
        y = operation(x, group=self._group)
        if not evaluated(y, by=mx.async_eval):
            raise ClusterError(
                "a model on several machines can neither be compiled nor differentiated"
            )
        self.messages += 1
        self.nbytes += x.nbytes
        self._under_way = y
        return y

    def finish(self) -> None:
        """Wait for what is under way. Raises ClusterError if a machine was lost meanwhile."""
        under_way, self._under_way = self._under_way, None
        try:
            if under_way is not None:
                mx.eval(under_way)
        except RuntimeError as error:
            raise ClusterError(f"the machines lost one another: {error}") from None


@cache
def _summed(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of a linear layer with some of the columns: the machines' outputs are summed."""

    class Summed(kind):
        def __call__(self, x: mx.array) -> mx.array:
            return self.together.sum(super().__call__(x))

    return _named(Summed, kind)


@cache
def _by_token(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of an embedding table, or a head, that has the rows ``own`` of ``counts``, those of
    every machine."""

    class ByToken(kind):
        def __call__(self, x: mx.array) -> mx.array:
            if issubclass(kind, nn.Linear):
                return self.together.join(super().__call__(x), self.counts)
            row = x.astype(mx.int32) - self.own.start
            here = (row >= 0) & (row < len(self.own))
            found = super().__call__(mx.where(here, row, 0))
            return self.together.sum(mx.where(here[..., None], found, 0))

        def as_linear(self, x: mx.array) -> mx.array:
            return self.together.join(super().as_linear(x), self.counts)

    return _named(ByToken, kind)


def _named(made: type, kind: type) -> type:
    made.__name__ = made.__qualname__ = f"{made.__name__}{kind.__name__}"
    return made


class OwnGLU(SwitchGLU):
    """:class:`SwitchGLU` with the experts ``own``; what goes to others gives 0."""

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """As :class:`SwitchGLU`'s; many indices are evaluated."""
        own = self.own
        if indices.size >= SORT_FROM:
            return self._many(x, indices)
        place = indices.astype(mx.int32) - own.start
        here = (place >= 0) & (place < len(own))
        # What is another's goes through an expert that this token reads anyway, for nothing.
        place = mx.where(here, place, 0)
        place = mx.where(here, place, place.max(axis=-1, keepdims=True))
        return mx.where(here[..., None], super().__call__(x, indices, place), 0)

    def _many(self, x: mx.array, indices: mx.array) -> mx.array:
        if not evaluated(indices):
            raise ClusterError("a model on several machines cannot be compiled")
        k, H, own = indices.shape[-1], x.shape[-1], self.own
        chosen = np.array(indices).reshape(-1).astype(np.int64) - own.start
        pairs = np.flatnonzero((chosen >= 0) & (chosen < len(own)))
        pairs = pairs[np.argsort(chosen[pairs], kind="stable")]  # each expert's rows adjoin
        if not len(pairs):
            return mx.zeros((*indices.shape, H), dtype=x.dtype)
        rows = x.reshape(-1, 1, H)[mx.array(pairs // k)]
        y = self.glu(rows, mx.array(chosen[pairs]), sorted_indices=True).reshape(-1, H)
        at = np.full(indices.size, len(pairs))  # others' pairs: the row of zeros
        at[pairs] = np.arange(len(pairs))
        y = mx.concatenate([y, mx.zeros((1, H), dtype=y.dtype)])[mx.array(at)]
        return y.reshape(*indices.shape, H)


class SummedExperts(Experts):
    """:class:`Experts` whose weighted sum goes over all machines'."""

    def __call__(self, x: mx.array, indices: mx.array, weights: mx.array, tap: Tap) -> mx.array:
        return self.together.sum(super().__call__(x, indices, weights, tap))


def shrink(model: Model, shares: Shares) -> None:
    """Give a model without weights the shapes of one rank's part: before its layers are packed.
    Towers are rank 0's."""
    for path, module in model.named_modules():
        if part := shares.part(path):
            shape = list(module.weight.shape)
            shape[part.axis] = part.stop - part.start
            module.weight = mx.zeros(shape)
    for number, layer in enumerate(model.layers):
        attention = layer.self_attn
        heads, kv_heads = shares.heads(number)
        attention.heads, attention.kv_heads = len(heads), len(kv_heads)
    for tower in TOWERS if shares.rank else ():
        model.pop(tower, None)


def connect(model: Model, shares: Shares, together: Together) -> None:
    """Have a model's layers sum and join: after they are packed."""
    config, size = model.config.text, shares.size

    def become(module: nn.Module, kind: type[nn.Module], **attributes) -> None:
        module.__class__ = kind
        module.together = together
        for name, value in attributes.items():
            object.__setattr__(module, name, value)  # no parameters

    for path, module in model.named_modules():
        part = shares.part(path)
        if part is None:
            continue
        name = path.rpartition(".")[2]
        if name in ("o_proj", "down_proj") and ".experts." not in path:
            become(module, _summed(type(module)))
        elif name.startswith("embed_tokens") or name == "lm_head":
            counts = [len(shares.tokens(part.whole, rank)) for rank in range(size)]
            become(module, _by_token(type(module)), own=shares.tokens(part.whole), counts=counts)
    for layer in model.layers:
        if config.enable_moe_block and shares.divides_experts:
            become(layer.experts, SummedExperts)
            become(layer.experts.switch_glu, OwnGLU, own=shares.experts())
