"""Random checkpoints of any size, written tensor by tensor in mlx-community's layout.

A quantized matrix is made as its packed words directly, so neither a 16-bit copy nor a whole
shard is ever in memory: 26B-A4B at 4 bits (15 GB) is written with a few hundred megabytes.
"""

import json
import math
from dataclasses import fields
from pathlib import Path

import numpy as np

from gemma4_mlx.checkpoints.inventory import Tensor, tensors
from gemma4_mlx.checkpoints.packing import Packing, choose
from gemma4_mlx.config import Gemma4Config, TextConfig

SHARD_BYTES = 2 * 10**9
_BLOCK = 1 << 24  # elements made at a time
_SIZES = {"BF16": 2, "F32": 4, "U32": 4, "U8": 1}


def hub_config(config: Gemma4Config, packing: Packing | None, vision=None, audio=None) -> dict:
    """``config.json`` of a text model as mlx-lm writes it. Towers only as given."""
    text = {"model_type": "gemma4_text", "tie_word_embeddings": True}
    for f in fields(TextConfig):
        if f.name != "rope":
            text[f.name] = getattr(config.text, f.name)
    for name in ("num_experts", "top_k_experts", "moe_intermediate_size"):
        text[name] = text[name] or None  # as the hub writes a model without experts
    text["rope_parameters"] = {
        kind: {
            "rope_theta": rope.theta,
            "rope_type": "proportional" if rope.partial_rotary_factor < 1 else "default",
            "partial_rotary_factor": rope.partial_rotary_factor,
        }
        for kind, rope in config.text.rope.items()
    }
    out = {
        "model_type": "gemma4",
        "text_config": text,
        "vision_config": vision,
        "audio_config": audio,
        "vocab_size": config.text.vocab_size,
        "eos_token_id": list(config.eos_token_ids),
        "image_token_id": config.image_token_id,
    }
    if packing is not None:
        how = dict(group_size=packing.group_size, bits=packing.bits, mode=packing.mode)
        out["quantization"] = how | {
            path: dict(group_size=p.group_size, bits=p.bits)
            for path, p in choose(tensors(config), packing).items()
            if p != packing
        }
    return out


def write(folder: Path, config: Gemma4Config, packing: Packing | None, floats: str = "BF16") -> int:
    """Write config.json and the shards; returns the number of bytes of all tensors.

    ``floats`` is the type of scales and of everything not quantized, ``"BF16"`` or ``"F32"``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {n: t for n, t in tensors(config).items() if t.part not in ("vision", "audio")}
    packings = choose(wanted, packing)
    entries = []  # (name, dtype, shape, kind, fan_in, bits)
    for name, tensor in wanted.items():
        entries += _entries(name, tensor, packings.get(name.removesuffix(".weight")), floats)
    shards, size = [[]], 0
    for entry in entries:
        nbytes = math.prod(entry[2]) * _SIZES[entry[1]]
        if size and size + nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += nbytes
    rng = np.random.default_rng(0)
    index, total = {}, 0
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        total += _write_shard(folder / file, shard, rng)
        index |= dict.fromkeys((entry[0] for entry in shard), file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps(hub_config(config, packing)))
    return total


def _entries(name: str, tensor: Tensor, packing: Packing | None, floats: str) -> list:
    if packing is None:
        kind = "matrix" if len(tensor.shape) > 1 else "vector"
        return [(name, floats, tensor.shape, kind, tensor.shape[-1], 16)]
    path, fan_in = name.removesuffix(".weight"), tensor.shape[-1]
    return [
        (f"{path}.{part}", "U32" if part == "weight" else floats, shape, part, fan_in,
         packing.bits)
        for part, shape in packing.shapes(tensor.shape).items()
    ]  # fmt: skip


def _write_shard(file: Path, entries: list, rng) -> int:
    header, at = {}, 0
    for name, dtype, shape, *_ in entries:
        nbytes = math.prod(shape) * _SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + nbytes]}
        at += nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for _, dtype, shape, kind, fan_in, bits in entries:
            left = math.prod(shape)
            while left:
                n = min(left, _BLOCK)
                f.write(_values(n, dtype, kind, fan_in, bits, rng))
                left -= n
    return at


def _values(n: int, dtype: str, kind: str, fan_in: int, bits: int, rng) -> bytes:
    """Values that keep activations of order one through any depth."""
    if dtype == "U32":
        return rng.bytes(4 * n)
    std = fan_in**-0.5
    # Uniform codes 0 ... 2^bits - 1 of scale s have the standard deviation s (2^bits - 1) / 3.46.
    scale = std * 12**0.5 / (2**bits - 1)
    if kind == "scales":
        x = rng.uniform(0.9, 1.1, n).astype(np.float32) * np.float32(scale)
    elif kind == "biases":
        x = np.full(n, -scale * (2**bits - 1) / 2, np.float32)
    elif kind == "matrix":
        x = rng.standard_normal(n, np.float32) * np.float32(std)
    else:
        x = rng.uniform(0.5, 1.5, n).astype(np.float32)
    if dtype == "F32":
        return x.tobytes()
    return (x.view(np.uint32) >> 16).astype(np.uint16).tobytes()
