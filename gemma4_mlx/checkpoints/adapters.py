"""Adapters: low-rank updates of a model's layers, as mlx-lm and PEFT save them.

A folder holds ``adapter_config.json`` and ``adapters.safetensors`` (mlx-lm) or
``adapter_model.safetensors`` (PEFT). Both say the same with transposed matrices:

============  ==========================================  ==================================
              mlx-lm                                      PEFT
============  ==========================================  ==================================
linear        ``lora_a`` (I, r), ``lora_b`` (r, O)        ``lora_A`` (r, I), ``lora_B`` (O, r)
experts       ``lora_a`` (E, r, I), ``lora_b`` (E, O, r)  (E r, I) and (O, r E), gate and up in one
embedding     ``lora_a`` (V, r), ``lora_b`` (r, D)        ``lora_embedding_A``, ``_B`` transposed
DoRA          ``m`` (O,)                                  ``lora_magnitude_vector`` (O,)
============  ==========================================  ==================================

The tensors decide what is adapted, and every one is checked against the model before it changes.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..errors import CheckpointError
from ..model.gemma4 import Model
from .files import confine, read_header, read_json
from .find import find_adapter
from .inventory import TEXT, unused_tensors
from .layout import model_name

MLX_LM, PEFT, CONFIG = "adapters.safetensors", "adapter_model.safetensors", "adapter_config.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz")
_PART = re.compile(
    r"\.(lora_a|lora_b|m|lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(\.weight)?$"
)
_TO_MLX = {"lora_A": "lora_a", "lora_B": "lora_b", "lora_magnitude_vector": "m"}
_TO_MLX |= {"lora_embedding_A": "lora_a", "lora_embedding_B": "lora_b"}
#: The experts' parameters have wrappers inside one another in PEFT, so no names of their own.
_EXPERTS = re.compile(r"\.experts(\.base_layer)*(\.(gate_up|down)_proj)?$")
#: Keys of PEFT's configuration that change the formula, or the base.
_OTHER_FORMULA = (
    "fan_in_fan_out", "layer_replication", "use_qalora", "use_bdlora", "velora_config",
    "kasa_config", "alora_invocation_tokens", "trainable_token_indices", "arrow_config",
    "lora_bias", "modules_to_save",
)  # fmt: skip
_OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "eva_")


class Update(NamedTuple):
    """What is added to one layer, in mlx-lm's form."""

    a: mx.array
    b: mx.array
    scale: float
    m: mx.array | None = None
    lookup_only: bool = False  # an embedding's, which leaves the head that is tied to it alone


def attach(model: Model, path_or_repo: str | Path, scale: float, dtype: mx.Dtype | None) -> None:
    """Put an adapter beside the layers of a model.

    Args:
        scale: how much of it counts, 1 as it was trained.
        dtype: what its arrays become; None leaves them.

    Raises:
        CheckpointError: no adapter there, or pickled, damaged, of a kind that is not read, or of
            another base. The model is then unchanged.
    """
    folder = find_adapter(path_or_repo)
    updates = _read(folder, model)
    if model.on_disk and any(path + ".weight" in model.on_disk.names() for path in updates):
        model.need_weights(f"the adapter {folder}")
    modules = dict(model.named_modules())
    wrong = [w for path, u in updates.items() if (w := _misfit(path, u, modules.get(path)))]
    if wrong:
        more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise CheckpointError(
            f"{folder} is an adapter of another base than {model.source}: "
            + "; ".join(wrong[:4])
            + more
        )
    layers = {path: _layer(modules[path], u, dtype) for path, u in updates.items()}
    model.update_modules(tree_unflatten(list(layers.items())))
    mx.eval(model.parameters())
    model.eval()
    model.adapter.scale = scale


def _read(folder: Path, model: Model) -> dict[str, Update]:
    """Path of the model's layer -> its update."""
    file = _file(folder)
    config = read_json(folder / CONFIG)
    tensors = _tensors(file)
    found: dict[str, dict[str, mx.array]] = defaultdict(dict)
    strange = []
    for name, array in tensors.items():
        if part := _PART.search(name):
            found[name[: part.start()].removeprefix("base_model.model.")][part[1]] = array
        elif not name.endswith(".base_layer.weight"):  # PEFT's copy of an adapted embedding
            strange.append(name)
    if strange or not found:
        what = f"tensors that are no low-rank update, such as {strange[0]}" if strange else "none"
        raise CheckpointError(f"{file} holds {what}; LoRA and DoRA are read")
    convert = _mlx_lm(config, folder) if file.name == MLX_LM else _peft(config, folder, model)
    unused, updates = unused_tensors(model.config), {}
    for name, parts in found.items():
        for path, update in convert(name, parts):
            if path + ".weight" not in unused:
                updates[path] = update
    return updates


def _file(folder: Path) -> Path:
    for name in (MLX_LM, PEFT):
        if (folder / name).is_file():
            for file in (folder / name, folder / CONFIG):
                if not file.is_file():
                    raise CheckpointError(f"{folder} holds {name} but no {file.name}")
                confine(folder, file)
            return folder / name
    pickled = sorted(f.name for f in folder.iterdir() if f.suffix in _PICKLED)
    if pickled:
        raise CheckpointError(
            f"{folder} holds {pickled[0]} and no safetensors file; pickled adapters are never "
            "opened here: save it anew as safetensors"
        )
    raise CheckpointError(f"{folder} holds no adapter: expected {MLX_LM} or {PEFT}")


def _tensors(file: Path) -> dict[str, mx.array]:
    for stored in read_header(file):
        if stored.dtype not in ("F32", "F16", "BF16"):
            raise CheckpointError(f"{file}: {stored.name} is {stored.dtype}, no 16 or 32-bit float")
    try:
        tensors = mx.load(str(file), format="safetensors")
        mx.eval(tensors)
    except (RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from None
    return tensors


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CheckpointError(f"{where} is {value!r}, no number")
    return float(value)


def _pair(name: str, parts: dict[str, mx.array], folder: Path) -> tuple[mx.array, mx.array]:
    a, b = parts.get("lora_a"), parts.get("lora_b")
    if a is None or b is None:
        raise CheckpointError(f"{folder}: {name} has only one of the two matrices of its update")
    if a.ndim < 2 or a.ndim != b.ndim:
        raise CheckpointError(f"{folder}: {name} has an update of {a.shape} and {b.shape}")
    return a, b


def _mlx_lm(config: dict, folder: Path) -> Callable:
    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        raise CheckpointError(f"{folder}: fine_tune_type is {kind!r}; lora and dora are read")
    about = config.get("lora_parameters")
    about = about if isinstance(about, dict) else {}
    scale = _number(about.get("scale"), f"{folder / CONFIG}: scale in lora_parameters")

    def convert(name, parts):
        a, b = _pair(name, parts, folder)
        yield _model_path(name), Update(a, b, scale, parts.get("m"))

    return convert


def _model_path(name: str) -> str:
    return model_name(name + ".weight").removesuffix(".weight")


def _peft(config: dict, folder: Path, model: Model) -> Callable:
    where = folder / CONFIG
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise CheckpointError(f"{where}: peft_type is {kind!r}; LORA is read (with use_dora, DoRA)")
    start = str(config.get("init_lora_weights", ""))
    other = [key for key in _OTHER_FORMULA if config.get(key)]
    if start.lower().startswith(_OTHER_BASE):
        other.append(f"init_lora_weights {start}, which changes the base")
    if config.get("bias", "none") != "none":
        other.append("bias")
    if other:
        raise CheckpointError(f"{where} asks for {', '.join(other)}, which is not read")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(f"{where}: alpha_pattern is no JSON object")
    experts = model.config.text.num_experts if model.config.text.enable_moe_block else 0

    def scale(name: str, rank: int) -> float:
        alpha = config.get("lora_alpha")
        for pattern, value in patterns.items():
            try:
                if re.fullmatch(rf"(.*\.)?({pattern})", name):
                    alpha = value
                    break
            except re.error as error:
                raise CheckpointError(f"{where}: alpha_pattern {pattern!r}: {error}") from None
        alpha = _number(alpha, f"{where}: lora_alpha")
        return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)

    def convert(name, parts):
        parts = {_TO_MLX[part]: array for part, array in parts.items() if part in _TO_MLX}
        a, b = _pair(name, parts, folder)
        if a.ndim != 2 or not a.shape[0]:
            raise CheckpointError(f"{folder}: {name} has an update of {a.shape} and {b.shape}")
        if _EXPERTS.search(name) and experts:
            if a.shape[0] % experts or b.shape[1] != a.shape[0]:
                raise CheckpointError(
                    f"{folder}: {name} has an update of {a.shape} and {b.shape}; a multiple of "
                    f"{experts} experts was expected"
                )
            rank = a.shape[0] // experts
            own = scale(name, rank)
            a = a.reshape(experts, rank, -1)
            b = mx.contiguous(b.reshape(b.shape[0], rank, experts).transpose(2, 0, 1))
            yield from _split(_EXPERTS.sub(".experts", name), a, b, own, model)
            return
        path, own = _model_path(name), scale(name, a.shape[0])
        head = path == TEXT + "embed_tokens" and model.config.text.tie_word_embeddings
        if head and "m" in parts:
            raise CheckpointError(f"{folder}: DoRA of the embedding, as PEFT has it, is not read")
        yield path, Update(mx.contiguous(a.T), mx.contiguous(b.T), own, parts.get("m"), head)

    return convert


def _split(name: str, a: mx.array, b: mx.array, scale: float, model: Model):
    """PEFT's update of all experts' gate and up projection, or of their down projection; which of
    the two, its shapes tell."""
    text = model.config.text
    glu = _model_path(name) + ".switch_glu."
    if (a.shape[-1], b.shape[1]) == (text.hidden_size, 2 * text.moe_intermediate_size):
        for half, part in enumerate(("gate_proj", "up_proj")):
            middle = text.moe_intermediate_size
            own = mx.contiguous(b[:, half * middle : (half + 1) * middle])
            yield glu + part, Update(a, own, scale)
    else:
        yield glu + "down_proj", Update(a, b, scale)


def _misfit(path: str, update: Update, layer: nn.Module | None) -> str | None:
    """Why an update is not one of this layer; None where it is."""
    if layer is None or "weight" not in layer or layer.weight.ndim < 2:
        return f"{path} does not exist here"
    *experts, rows, width = layer.weight.shape
    if "scales" in layer:
        width = width * 32 // layer.bits
    a, b, m = update.a.shape, update.b.shape, update.m
    rank = b[-1] if experts else b[0]
    if experts:
        wanted = (*experts, rank, width), (*experts, rows, rank)
    elif _embedding(layer):
        wanted = (rows, rank), (rank, width)
    else:
        wanted = (width, rank), (rank, rows)
    if (a, b) != wanted or (m is not None and m.shape != (rows,)):
        return f"{path} has {a} and {b}, its layer here takes {wanted[0]} and {wanted[1]}"
    if m is not None and (experts or (_embedding(layer) and "scales" in layer)):
        return f"{path} is DoRA, which exists for no experts and no quantized embedding"
    return None


def _embedding(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Embedding | nn.QuantizedEmbedding)


def _layer(layer: nn.Module, update: Update, dtype: mx.Dtype | None) -> nn.Module:
    """mlx-lm's layer for an update."""
    from mlx_lm.tuner.dora import DoRAEmbedding, DoRALinear
    from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear

    class LoRALookup(LoRAEmbedding):
        """The update of an embedding that is the head as well, and as that unchanged: so PEFT."""

        lookup_only = True

        def as_linear(self, x: mx.array) -> mx.array:
            return self.embedding.as_linear(x)

    how = dict(r=update.b.shape[0], scale=update.scale, dropout=0.0)
    if layer.weight.ndim == 3:
        made = layer.to_lora(**how | {"r": update.b.shape[-1]})
    elif _embedding(layer):
        made = (LoRAEmbedding if update.m is None else DoRAEmbedding).from_base(layer, **how)
        if update.lookup_only:
            made.__class__ = LoRALookup
    else:
        made = (LoRALinear if update.m is None else DoRALinear).from_base(layer, **how)
    made.lora_a, made.lora_b = (x if dtype is None else x.astype(dtype) for x in update[:2])
    if update.m is not None:
        made.m = update.m if dtype is None else update.m.astype(dtype)
    made.freeze()
    return made
