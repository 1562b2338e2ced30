"""Quantizes the matrices of a checkpoint with compressed-tensors itself.

Run as a script in its own process, because torch and MLX should not share a BLAS:

    python compress.py BASE.safetensors OUT

writes OUT/NAME/{stored,exact}.safetensors for every scheme below: what a published file of that
kind holds, and the same weights decoded by the library in float32. Experts are written one by one.
"""

import sys
from functools import partial
from pathlib import Path

import compressed_tensors.compressors.nvfp4.base as nvfp4
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import load_file, save_file

# Its decoder of 4-bit floats rounds to bfloat16 unless told otherwise.
nvfp4.unpack_fp4_from_uint8 = partial(nvfp4.unpack_fp4_from_uint8, dtype=torch.float32)

INT4 = dict(num_bits=4, type="int", strategy="group", group_size=32)
FP8 = dict(num_bits=8, type="float")
FP4 = dict(num_bits=4, type="float", strategy="group", group_size=32)
PACKED = "pack-quantized"
#: name -> format and arguments of the scheme
SCHEMES = {
    "int4": (PACKED, INT4),
    "int4_asymmetric": (PACKED, INT4 | dict(symmetric=False)),
    "int4_row": (PACKED, INT4 | dict(strategy="channel", group_size=None)),
    "int4_row_asymmetric": (
        PACKED,
        INT4 | dict(strategy="channel", group_size=None, symmetric=False),
    ),
    "int4_small_groups": (PACKED, INT4 | dict(group_size=16)),
    "int3": (PACKED, INT4 | dict(num_bits=3)),
    "int8_packed": (PACKED, INT4 | dict(num_bits=8, group_size=64)),
    "int8": ("int-quantized", dict(num_bits=8, type="int", strategy="channel")),
    "fp8_row": ("float-quantized", FP8 | dict(strategy="channel")),
    "fp8_tensor": ("float-quantized", FP8 | dict(strategy="tensor")),
    "fp8_block": ("float-quantized", FP8 | dict(strategy="block", block_structure=[32, 48])),
    "mxfp4": ("mxfp4-pack-quantized", FP4 | dict(scale_dtype="torch.uint8")),
    "mxfp8": ("mxfp8-quantized", FP4 | dict(num_bits=8, scale_dtype="torch.uint8")),
    "nvfp4": ("nvfp4-pack-quantized", FP4 | dict(strategy="tensor_group", group_size=16)),
    "nvfp4_exact": ("nvfp4-pack-quantized", FP4 | dict(strategy="tensor_group", group_size=16)),
}


def blocks(w, args):
    """The weights that share a scale, in the last axis: (O or fewer, groups, ...)."""
    height, width = w.shape
    if args.strategy == "tensor":
        return w.reshape(1, 1, -1)
    if args.strategy == "channel":
        return w.reshape(height, 1, width)
    if args.strategy == "block":
        down, across = args.block_structure
        pad = torch.nn.functional.pad(w, (0, -width % across, 0, -height % down))
        tall, wide = pad.shape[0] // down, pad.shape[1] // across
        return pad.reshape(tall, down, wide, across).swapaxes(1, 2).reshape(tall, wide, -1)
    return w.reshape(height, -1, args.group_size)


def parameters(w, args, name):
    """Scales (and zero points) from the weights' range, rounded as files hold them."""
    low, high = blocks(w, args).aminmax(dim=-1)
    largest = torch.maximum(-low, high).clamp(min=1e-6)
    if args.type == "int":
        steps = 2**args.num_bits - 1
        if args.symmetric:
            return {"weight_scale": (largest * 2 / steps).bfloat16()}
        scale = ((high.clamp(min=0) - low.clamp(max=0)) / steps).clamp(min=1e-6).bfloat16()
        zero = (-(steps + 1) // 2 - low.clamp(max=0) / scale).round()
        zero = zero.clamp(-(steps + 1) // 2, steps // 2)
        return {"weight_scale": scale, "weight_zero_point": zero.to(torch.int8)}
    if args.num_bits == 8 and args.group_size is None:
        scale = largest / 448
        return {"weight_scale": scale if args.strategy == "block" else scale.bfloat16()}
    if args.group_size == 32:
        return {"weight_scale": torch.exp2(torch.floor(torch.log2(largest / 4)))}
    whole = 448 * 6 / largest.max()
    least = 0
    if name == "nvfp4_exact":  # every scale halved is an 8-bit float, and not a subnormal one
        whole, least = torch.tensor(2.0), 2**-5
    scale = (largest / 6 * whole).clamp(least, 448).to(torch.float8_e4m3fn).float()
    return {"weight_scale": scale, "weight_global_scale": whole.reshape(1)}


def compress(w, name):
    """A matrix's tensors, and what they stand for."""
    form, how = SCHEMES[name]
    args = QuantizationArgs(**how)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(form)
    stored = compressor.compress({"weight": w} | parameters(w, args, name), scheme)
    wide = dict(stored)
    if form not in ("nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized"):
        wide["weight_scale"] = wide["weight_scale"].float()
    return stored, compressor.decompress(wide, scheme)["weight"].float()


def experts_apart(tensors):
    """``experts.gate_up_proj`` (E, 2 I, H) -> ``experts.3.gate_proj.weight`` (I, H) and so on."""
    for name, value in tensors.items():
        base, _, last = name.rpartition(".")
        if not base.endswith(".experts"):
            yield name, value
            continue
        for expert, matrix in enumerate(value):
            parts = matrix.chunk(2) if last == "gate_up_proj" else (matrix,)
            for part, half in zip(("gate_proj", "up_proj") if len(parts) == 2 else (last,), parts):
                yield f"{base}.{expert}.{part}.weight", half


def main(base, out):
    torch.set_num_threads(1)
    tensors = dict(experts_apart({n: t.float() for n, t in load_file(base).items()}))
    chosen = {
        n
        for n, t in tensors.items()
        if n.endswith("_proj.weight") and t.ndim == 2 and "language_model" in n
    }
    for name in SCHEMES:
        stored, exact = {}, {}
        for tensor, value in tensors.items():
            if tensor not in chosen:
                stored[tensor] = value.bfloat16()
                exact[tensor] = value
                continue
            parts, exact[tensor] = compress(value, name)
            path = tensor.removesuffix("weight")
            stored |= {path + part: t for part, t in parts.items()}
        (out / name).mkdir(parents=True)
        for kind, content in (("stored", stored), ("exact", exact)):
            content = {n: t.contiguous().clone() for n, t in content.items()}
            save_file(content, out / name / f"{kind}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
