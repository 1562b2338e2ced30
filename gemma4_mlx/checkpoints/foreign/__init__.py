"""Quantizations of other ecosystems, turned into MLX's names and packings.

:func:`translate` is the seam: it takes what a checkpoint stores and gives the same with every
foreign module replaced by what MLX would store for it (``weight``, ``scales``, ``biases``), which
the rest of the room then maps, checks and reads like its own.

What a tensor is called and its type and shape tell how it is stored, module by module, so files
that mix quantizations, or leave modules out, need no rule of their own:

=====================================  ==========================  ============================
stored                                 read as                     written by
=====================================  ==========================  ============================
``weight_packed`` int32                affine, kept packed         compressed-tensors
``weight`` int8                        affine 8 bit, kept packed   compressed-tensors
``weight`` FP8, ``weight_scale``       decoded                     compressed-tensors, modelopt
``weight`` FP8, scales of a byte       mxfp8, kept packed          compressed-tensors
``weight_packed`` bytes, byte scales   mxfp4, kept packed          compressed-tensors
NVFP4 (two levels of scales)           nvfp4 where exact, else     compressed-tensors, modelopt
                                       decoded
``weight`` bytes, a float scale        affine 2, 4, 8 bit, kept    Google's mobile checkpoints
                                       packed
=====================================  ==========================  ============================

What is decoded can be packed again while it is read, with ``load``'s ``bits`` and ``mode``.
"""

import re
from collections import defaultdict
from typing import Any

from ...config import Gemma4Config
from ...errors import CheckpointError
from ..derived import Derived
from ..files import Stored
from ..layout import model_name
from . import eight_bit, four_bit, integers

_PARTS = {
    "weight_packed",
    "weight_scale",
    "weight_scale_inv",
    "weight_scale_2",
    "weight_global_scale",
    "weight_zero_point",
    "weight_shape",
    "weight_g_idx",
}
#: Parts that go by a name of their own in embedding tables (Google's mobile checkpoints).
_TABLE = {"embedding_quantized": "weight", "embedding_scale": "weight_scale"}
#: Scales of activations and of cached keys and values, which stay in 16 bits here.
_ACTIVATIONS = re.compile(
    r"\.(input|output|k|v|q|kv|attn|prob)_(scale|zero_point|global_scale|scale_inv)$"
    r"|\.[kv]_cache_scale$"
)
_EXPERT = re.compile(r"(?<=\.experts\.)\d+(?=\.)")
#: What tells a quantization that is not read, whatever config.json says.
_UNREAD = {
    "qweight": "GPTQ, AWQ or AutoRound",
    "qzeros": "GPTQ, AWQ or AutoRound",
    "weight.absmax": "bitsandbytes",
    "weight.quant_map": "bitsandbytes",
    "SCB": "bitsandbytes (8 bit)",
    "pre_quant_scale": "AWQ by modelopt",
    "bitmask": "2:4 sparsity of compressed-tensors",
    "W_q": "HQQ",
}


def translate(
    stored: dict[str, Stored], config: Gemma4Config, shapes: dict[str, tuple[int, ...]]
) -> dict[str, Stored | Derived]:
    """What a checkpoint stores, foreign quantizations as MLX's.

    Args:
        stored: by the checkpoint's names.
        shapes: the model's own, which tell how many weights a row of bytes holds.

    Raises CheckpointError for what is not read, or does not belong together.
    """
    modules: dict[str, dict[str, Stored]] = defaultdict(dict)
    found: dict[str, Stored | Derived] = {}
    for name, tensor in stored.items():
        path, _, part = name.rpartition(".")
        part = _TABLE.get(part, part)
        _refuse_unread(name, tensor)
        if part in _PARTS or name.endswith(tuple(_TABLE)):
            modules[path][part] = tensor
        elif not _ACTIVATIONS.search(name):
            found[name] = tensor
    if not modules:
        return found
    stacks: dict[str, dict[str, dict[str, Stored]]] = defaultdict(dict)
    for path, parts in modules.items():
        if (weight := found.pop(path + ".weight", None)) is not None:
            parts["weight"] = weight
        stacks[_EXPERT.sub("*", path)][path] = parts
    dtype, block = _dtype(config), _block(config.quantization or {})
    for path, stack in stacks.items():
        width = shapes.get(model_name(path + ".weight"), (0,))[-1]
        found |= _read(stack, dtype, block, width)
    return found


def _read(
    stack: dict[str, dict[str, Stored]], dtype: str, block: tuple[int, int], width: int
) -> dict[str, Derived]:
    """One module, or the same matrix of every expert; rows of ``width`` where that is known."""
    path, parts = next(iter(stack.items()))
    if any(other.keys() != parts.keys() for other in stack.values()):
        raise CheckpointError(f"{path}: not all experts are stored alike")
    weight = parts.get("weight_packed") or parts.get("weight")
    scale = parts.get("weight_scale") or parts.get("weight_scale_inv")
    if weight is None or scale is None:
        raise CheckpointError(f"{path}: {', '.join(sorted(parts))} alone do not make a matrix")
    eight = weight.dtype.startswith("F8")
    if parts.keys() & {"weight_scale_2", "weight_global_scale"} and weight.dtype == "U8":
        return dict(four_bit.read_nvfp4(stack, dtype))
    in_bytes = weight.dtype == "U8" and scale.dtype in ("F32", "F16", "BF16") and width
    if weight.dtype in ("I32", "I8") or in_bytes:
        return dict(integers.read(stack, dtype, width))
    if scale.dtype in ("U8", "F8_E8M0") and (eight or weight.dtype == "U8"):
        return dict(four_bit.read_mx(stack))
    if eight:
        return dict(eight_bit.read(stack, dtype, block))
    raise CheckpointError(
        f"{path}: weights in {weight.dtype} of shape {weight.shape} with scales in {scale.dtype} "
        "are no quantization that is read here; use the 16-bit checkpoint, or one converted for MLX"
    )


def _refuse_unread(name: str, tensor: Stored) -> None:
    for suffix, method in _UNREAD.items():
        if name.endswith("." + suffix):
            raise CheckpointError(
                f"{tensor.file} is quantized by {method} ({name}), which is not read here; use the "
                "16-bit checkpoint, or one converted for MLX (mlx-community)"
            )


def _dtype(config: Gemma4Config) -> str:
    """The type of the weights before they were quantized."""
    text = config.raw.get("text_config") or {}
    for section in (config.raw, text):
        for key in ("dtype", "torch_dtype"):
            if section.get(key) == "float16":
                return "F16"
    return "BF16"


def _block(quantization: dict[str, Any]) -> tuple[int, int]:
    """Rows and columns that share a scale where these are stored by block."""
    sizes = [quantization.get("weight_block_size")]
    groups = quantization.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        sizes.append(weights.get("block_structure") if isinstance(weights, dict) else None)
    for size in sizes:
        if (
            isinstance(size, list)
            and len(size) == 2
            and all(type(n) is int and n > 0 for n in size)
        ):
            return size[0], size[1]
    return 128, 128
