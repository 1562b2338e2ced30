"""How a matrix is packed into few bits: what a file's tensors say, and what ``bits=`` asks for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from .inventory import Tensor

if TYPE_CHECKING:  # what reads tensors needs MLX; planning does not
    from .layout import Source

#: MLX's modes (``mx.quantize``): the default group size and bits of each.
MODES = {"affine": (64, 4), "mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}
_AFFINE_BITS = (2, 3, 4, 5, 6, 8)
_AFFINE_GROUPS = (32, 64, 128)


@dataclass(frozen=True)
class Packing:
    """``bits`` a weight, one scale (affine: and one bias) for every ``group_size`` of a row.

    Raises CheckpointError for bits or a group size that the mode does not have.
    """

    bits: int
    group_size: int
    mode: str = "affine"

    def __post_init__(self):
        group, bits = MODES.get(self.mode, (None, None))
        if group is None:
            raise CheckpointError(f"mode is {self.mode!r}; expected one of {', '.join(MODES)}")
        fine = (self.group_size, self.bits) == (group, bits)
        if self.mode == "affine":
            fine = self.bits in _AFFINE_BITS and self.group_size in _AFFINE_GROUPS
            expected = f"bits of {_AFFINE_BITS} and group_size of {_AFFINE_GROUPS}"
        else:
            expected = f"bits {bits} and group_size {group}"
        if not fine:
            raise CheckpointError(
                f"{self.mode} quantization with bits={self.bits!r} and "
                f"group_size={self.group_size!r} does not exist; expected {expected}"
            )

    def __str__(self) -> str:
        return f"{self.mode} {self.bits} bit, groups of {self.group_size}"

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Rows of such a matrix divide into whole groups (and whole 32-bit words)."""
        return shape[-1] % self.group_size == 0 and shape[-1] * self.bits % 32 == 0

    def shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The shapes of ``weight``, ``scales`` and ``biases`` that stand for a matrix."""
        *rows, width = shape
        scales = (*rows, width // self.group_size)
        packed = {"weight": (*rows, width * self.bits // 32), "scales": scales}
        return packed | ({"biases": scales} if self.mode == "affine" else {})

    def nbytes(self, shape: tuple[int, ...], scale_bytes: int) -> int:
        """Bytes of a packed matrix; ``scale_bytes`` an affine scale (others take one byte)."""
        each = 2 * scale_bytes if self.mode == "affine" else 1
        elements = math.prod(shape)
        return elements * self.bits // 8 + elements // self.group_size * each


#: The router decides by small differences; every converter keeps it at 8 bits.
ROUTER = Packing(8, 64)


def asked_for(bits: int | None, group_size: int | None, mode: str) -> Packing | None:
    """The packing that ``load``'s arguments ask for, None for none.

    Raises CheckpointError for a mode, bits or group size that MLX does not have.
    """
    if bits is None and mode == "affine":
        return None
    if mode not in MODES:
        raise CheckpointError(f"mode is {mode!r}; expected one of {', '.join(MODES)}")
    default_group, default_bits = MODES[mode]
    if mode != "affine":  # these have one group size; 64 is only load's default for affine
        group_size = default_group
    return Packing(default_bits if bits is None else bits, group_size, mode)


def choose(wanted: dict[str, Tensor], packing: Packing | None) -> dict[str, Packing]:
    """Module path -> packing, for all matrices that ``packing`` is asked for.

    Text projections, embedding tables and experts; the router at 8 bits; rows that do not divide
    into groups stay as they are, and so do the towers, whose weights are few.
    """
    if packing is None:
        return {}
    found = {}
    for name, tensor in wanted.items():
        own = ROUTER if tensor.part == "router" and packing.bits < 8 else packing
        if tensor.quantizable and own.fits(tensor.shape):
            found[name.removesuffix(".weight")] = own
    return found


def stored_packings(
    sources: dict[str, Source], wanted: dict[str, Tensor], complain: Callable[[str], None]
) -> dict[str, Packing]:
    """Module path -> packing, for every module whose ``.scales`` the checkpoint holds.

    The tensors' own shapes tell bits and group size, given the matrix's true width; the dtype of
    the scales tells the mode. So a conversion that quantized some modules differently, or whose
    ``config.json`` does not say so, is read right. ``complain`` is told what cannot be.
    """
    found = {}
    for name in [name for name in sources if name.endswith(".scales")]:
        path = name.removesuffix(".scales")
        weight, matrix = sources.get(path + ".weight"), wanted.get(path + ".weight")
        if weight is None or matrix is None or len(matrix.shape) < 2:
            continue  # the name check reports it
        packed, groups, width = weight.shape[-1:], sources[name].shape[-1:], matrix.shape[-1]
        try:
            found[path] = _infer(width, packed, groups, weight, sources[name])
        except CheckpointError as error:
            complain(f"{path}: {error}")
    return found


def _infer(width: int, packed: tuple, groups: tuple, weight: Source, scales: Source) -> Packing:
    if not packed or not groups or not groups[0] or width % groups[0] or packed[0] * 32 % width:
        raise CheckpointError(
            f"weight {weight.shape} and scales {scales.shape} cannot stand for rows of {width}"
        )
    bits, group_size = packed[0] * 32 // width, width // groups[0]
    if scales.stored.dtype != "U8":
        return Packing(bits, group_size)
    for mode, pair in MODES.items():
        if mode != "affine" and pair == (group_size, bits):
            return Packing(bits, group_size, mode)
    raise CheckpointError(
        f"8-bit scales with {bits} bits and groups of {group_size} are no mode of MLX"
    )
