"""What each of several machines has of a model, and what they send one another, before a download.

Counted with the rules by which machines divide a model (:mod:`..model.shares`,
:mod:`..model.stages`), so that the planner and the loaded model agree. Needs no MLX.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..config import Gemma4Config
from ..errors import ClusterError
from ..model.shares import Shares
from ..model.stages import Stages, layer_ranges
from .inventory import Tensor, layer_sizes
from .packing import Packing

if TYPE_CHECKING:
    from .planner import Fit


def divisions(
    config: Gemma4Config, packings: dict[str, Packing], room: list[int], strategy: str
) -> list[Shares | Stages]:
    """What each rank has, for a list of the bytes that a model may take of each machine.

    Raises ClusterError for another strategy, or too many machines.
    """

    def group_size(path: str) -> int:
        return packings[path].group_size if path in packings else 1

    ranks = range(len(room))
    if strategy == "tensor":
        return [Shares(config.text, rank, len(room), group_size) for rank in ranks]
    if strategy != "pipeline":
        raise ClusterError(f"strategy is {strategy!r}; expected 'tensor' or 'pipeline'")
    ranges = layer_ranges(*layer_sizes(config, packings), room)
    return [Stages(config.text, rank, ranges, group_size) for rank in ranks]


def shape_of(division: Shares | Stages, name: str, tensor: Tensor) -> tuple[int, ...] | None:
    """The shape of what a rank has of a tensor; None for nothing."""
    if not division.has(name):
        return None
    part = division.part(name.removesuffix(".weight"))
    if part is None:
        return tensor.shape
    shape = list(tensor.shape)
    shape[part.axis] = part.stop - part.start
    return tuple(shape)


def kv_heads_of(division: Shares | Stages) -> Callable[[int], int]:
    """How many KV heads of a layer a rank keeps."""
    if isinstance(division, Shares):
        return lambda layer: len(division.heads(layer)[1])

    def kept(layer: int) -> int:
        here = layer in division.own or division.receives(layer)
        return division.config.kv_heads_of(layer) if here else 0

    return kept


@dataclass(frozen=True)
class Traffic:
    """What a rank sends for one generated token: ``messages``, and ``nbytes`` given into them."""

    messages: int
    nbytes: int


def traffic(config: Gemma4Config, division: Shares | Stages, itemsize: int) -> Traffic:
    """What rank ``division.rank`` sends for a token: in divided layers a sum of H numbers behind
    attention and one behind the MLP (with experts, of twice as many), in all layers; the token's
    embeddings; and its rows' logits. Of stages the stream, and keys and values that are shared."""
    text = config.text
    H, L, P = text.hidden_size, text.num_hidden_layers, text.hidden_size_per_layer_input
    sizes = []
    if isinstance(division, Shares):
        for layer in range(L):
            sizes += [H] * division.divides_heads(layer)
            if text.enable_moe_block and division.divides_experts:
                sizes += [2 * H] if division.divides_mlp(layer) else [H]
            else:
                sizes += [H] * division.divides_mlp(layer)
        sizes += [H, L * P] if P else [H]
        sizes.append(len(division.tokens(text.vocab_size, 0)))
    else:
        sizes = [H] * (2 if P else 1)
        for layer in filter(division.sends_on, range(L)):
            sizes.append(2 * text.kv_heads_of(layer) * text.head_dim_of(layer))
    return Traffic(len(sizes), sum(sizes) * itemsize)


@dataclass(frozen=True)
class ClusterFit:
    """What a model needs of each of several machines.

    Attributes:
        strategy: ``"tensor"`` or ``"pipeline"``.
        ranks: a :class:`.planner.Fit` for each machine.
        most: the longest context that all of them can hold, 0 if not even an empty one.
        traffic: what each sends for a generated token.
    """

    strategy: str
    ranks: "tuple[Fit, ...]"
    most: int
    traffic: tuple[Traffic, ...]

    @property
    def fits(self) -> bool:
        return all(rank.fits for rank in self.ranks)

    @property
    def title(self) -> str:
        one = self.ranks[0]
        return f"{one.name}, {one.packing}, {one.context:,} tokens, {self.strategy}"

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.fits:
            return f"fits; up to {self.most:,} tokens"
        lacking = [str(i) for i, rank in enumerate(self.ranks) if not rank.fits]
        where = f"does not fit on rank {', '.join(lacking)}"
        return f"{where}; up to {self.most:,} tokens do" if self.most else where

    def cells(self) -> list[tuple[str, ...]]:
        """Of each rank: number, machine, GiB of weights, of all, of what it may take, and messages
        and kB for a token."""
        return [
            (
                str(number),
                str(rank.machine),
                f"{sum(rank.weights.values()) / 2**30:.2f}",
                f"{rank.total / 2**30:.2f}",
                f"{rank.machine.usable / 2**30:.2f}",
                str(sent.messages),
                f"{sent.nbytes / 1e3:,.0f}",
            )
            for number, (rank, sent) in enumerate(zip(self.ranks, self.traffic))
        ]

    HEAD: ClassVar = ("rank", "machine", "weights", "total", "of GiB", "messages", "kB a token")

    def __str__(self) -> str:
        widths = (5, 22, 9, 9, 9, 10, 12)
        lines = [self.HEAD, *self.cells()]
        rows = ["".join(f"{cell:>{w}}" for cell, w in zip(line, widths)) for line in lines]
        return "\n".join([self.title, *rows, f"  {self.verdict}"])

    def _repr_html_(self) -> str:
        from html import escape

        head = "".join(f"<th>{name}</th>" for name in self.HEAD)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>"
            for line in self.cells()
        )
        table = f"<table><caption>{escape(self.title)}</caption><tr>{head}</tr>{body}</table>"
        return f"{table}<p>{escape(self.verdict)}</p>"
