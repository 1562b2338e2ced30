"""``load``: a checkpoint folder or hub repository becomes a model that answers."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..config import Gemma4Config
from ..errors import CheckpointError
from ..model import ops, parallel, pipeline
from ..model.gemma4 import Model
from ..model.moe import QuantizedSwitchLinear
from ..model.parallel import Together
from ..model.ranges import ranged
from ..model.sizes import STEPS
from .adapters import attach
from .derived import Derived
from .disk.experts import ExpertsOnDisk
from .disk.layers import LayersOnDisk
from .disk.planning import check_places
from .files import Stored, read_json
from .find import find, named_in_environment
from .inventory import tensors
from .layout import Source
from .packing import Packing, asked_for, choose
from .parts import own_parts
from .plan import read_plan
from .read import Loss, read_all
from .sharing import divisions

if TYPE_CHECKING:
    from ..machines import Cluster

log = logging.getLogger(__name__)

_DTYPES = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """The user's random numbers go on where they were: layers draw weights that are replaced."""
    high, low = mx.random.state[0].tolist()
    try:
        yield
    finally:
        mx.random.seed(high << 32 | low)


@_random_numbers_kept()
def load(
    path_or_repo: str | Path | None = None,
    *,
    bits: int | None = None,
    group_size: int = 64,
    mode: str = "affine",
    dtype: str | mx.Dtype | None = None,
    revision: str | None = None,
    adapter: str | Path | None = None,
    adapter_scale: float = 1.0,
    experts: str = "memory",
    expert_memory: int | str | None = None,
    prepare: bool = False,
    layers: str = "memory",
    cluster: "Cluster | None" = None,
    strategy: str = "tensor",
) -> Model:
    """Load a Gemma 4 model.

    Args:
        path_or_repo: a folder with ``config.json`` and safetensors, a GGUF file, or a repository
            of the Hugging Face hub such as ``"google/gemma-4-E2B-it"`` (or a GGUF file of one,
            ``"org/name/file.gguf"``), fetched if it is not cached. None is the embedded teaching
            model, or what ``GEMMA4_MODEL`` names in the environment.
        bits: quantize the text weights to so many bits (8, 6, 5, 4, 3, 2) while reading; peak
            memory is the quantized size and one block. The router keeps 8 bits, vision and
            audio their 16.
        group_size: how many weights share a scale (32, 64, 128).
        mode: ``"affine"``, or one of MLX's block floating point types, ``"mxfp4"``,
            ``"mxfp8"``, ``"nvfp4"``, which fix bits and group size.
        dtype: ``"bfloat16"``, ``"float16"`` or ``"float32"`` for everything not quantized. By
            default as stored, and bfloat16 for what another ecosystem quantized; on the CPU
            backend float32, because it is several times faster there and some operations exist
            in no other type.
        revision: branch, tag or commit of the repository.
        adapter: a folder or repository with low-rank updates (LoRA, DoRA) that mlx-lm or PEFT
            saved, put beside the model's layers: ``model.adapter`` scales it and switches it off.
        adapter_scale: how much of the adapter counts, 1 as it was trained.
        experts: ``"disk"`` leaves the experts in the checkpoint's files and reads them when they
            are chosen, for a model that is larger than the memory. What it computes is the same;
            ``model.on_disk`` says how it fares.
        expert_memory: bytes, or text such as ``"4GB"``, for the experts that are held then; by
            default half of the memory that is free.
        prepare: where experts on disk have to be converted before they are computed with (``bits``
            for 16-bit weights, another ecosystem's quantization), write them once to the user's
            cache folder. Without it an error says how large that is.
        layers: ``"disk"`` leaves all decoder layers there and reads one after the other, for a
            model that is larger still and work that reads a prompt once (a trace): everything is
            read for each chunk of a prompt and again for each generated token.
        cluster: from :func:`gemma4_mlx.cluster`: each of its machines reads its own part, from
            where it finds ``path_or_repo``, and they compute together. Without ``adapter``, and
            with all weights in memory.
        strategy: how they share it: ``"tensor"``, each some heads, columns and experts of every
            layer, or ``"pipeline"``, each some of the layers, by its memory: slower, with little
            to send.

    Raises:
        CheckpointError: the checkpoint cannot be found, fetched or read, or does not hold the
            model that its ``config.json`` describes.
        ClusterError: a machine of the cluster failed, or found another checkpoint.
        ConfigError: ``config.json`` is not a Gemma 4 model's.
    """
    how = dict(bits=bits, group_size=group_size, mode=mode, dtype=dtype, revision=revision)
    on_disk = _on_disk(experts, expert_memory, prepare, layers)
    if cluster is not None:
        if on_disk or adapter is not None:
            raise CheckpointError(
                "a model on several machines is loaded without adapter, experts='disk' and "
                "layers='disk'"
            )
        return cluster.load(path_or_repo, strategy, **how)
    model = _load(path_or_repo, **how, on_disk=on_disk)
    if adapter is not None:
        attach(model, adapter, adapter_scale, mx.float32 if ops.on_cpu() else None)
        model.source += f" with {adapter}"
    return model


@_random_numbers_kept()
def load_part(
    together: Together, path_or_repo: str | Path | None, room: list[int] | None, **how
) -> Model:
    """The part of a model that one of several machines owns.

    Args:
        room: bytes that each machine has, for stages of layers; None divides every layer.
        how: ``bits``, ``group_size``, ``mode``, ``dtype`` and ``revision`` as :func:`load` takes
            them.

    Raises as :func:`load` does.
    """
    return _load(path_or_repo, **how, together=together, room=room)


def _load(
    path_or_repo: str | Path | None,
    bits: int | None,
    group_size: int,
    mode: str,
    dtype: str | mx.Dtype | None,
    revision: str | None,
    on_disk: Callable | None = None,
    together: Together | None = None,
    room: list[int] | None = None,
) -> Model:
    packing = asked_for(bits, group_size, mode)
    wanted_dtype = _dtype(dtype)
    folder = find(path_or_repo, revision)
    plan = read_plan(folder)
    config, stored, sources, packings = plan[:4]
    if packing and packings and not plan.decoded:
        raise CheckpointError(
            f"{folder} is quantized already ({next(iter(packings.values()))}); "
            "leave out bits and mode, or load the 16-bit checkpoint"
        )
    new = {p: how for p, how in choose(tensors(config), packing).items() if p not in packings}

    on_cpu = ops.on_cpu()
    dtype_of = partial(_dtype_of, dtype=wanted_dtype)
    if wanted_dtype is None and on_cpu:
        dtype_of = _cpu_dtype_of
        if any(s.dtype in ("BF16", "F16") for s in stored.values()):
            log.info("16-bit weights are converted to float32 for the CPU backend")
    elif wanted_dtype is None and plan.foreign:
        # Other ecosystems mix types that MLX would have to widen again in every product.
        dtype_of = partial(_dtype_of, dtype=mx.bfloat16)
    model = Model(config)
    model.fingerprint = digest = fingerprint(config, stored, packings | new)
    if on_disk:
        key = f"{digest[:32]}-{wanted_dtype}"
        model.on_disk = on_disk(folder, config, sources, new, dtype_of, key)
        model.on_disk.put_into(model)
        left = model.on_disk.names()
        sources = {name: source for name, source in sources.items() if name not in left}
    packed = packings | new
    if together:
        of, strategy = ([1] * together.size, "tensor") if room is None else (room, "pipeline")
        division = divisions(config, packed, of, strategy)[together.rank]
        sources = own_parts(sources, division)
        packed = {path: how for path, how in packed.items() if division.has(path + ".weight")}
        (parallel.shrink if room is None else pipeline.drop)(model, division)
    _quantize_layers(model, packed)
    if together:
        (parallel if room is None else pipeline).connect(model, division, together)
    _hold_ranges(model, sources)
    loss = Loss()
    if model.on_disk:
        model.on_disk.empty(model)
    # The names of all tensors are checked already; what is on disk is not among these.
    model.load_weights(list(read_all(sources, new, dtype_of, loss)), strict=not model.on_disk)
    for origin, share in loss.by_origin().items():
        log.warning(
            "weights stored as %s were quantized once more: they moved by %.1f %% of their size "
            "(root mean square)",
            origin,
            100 * share,
        )
    mx.eval(model.parameters())  # what is left lazy could be computed on this thread alone
    model.eval()
    if model.on_disk:
        model.on_disk.open(model)
    source = named_in_environment() if path_or_repo is None else path_or_repo
    model.source = "teaching model" if source is None else str(source)
    if plan.gguf is None:
        _attach(model, folder)
    else:
        model.tokenizer, model.chat_template = plan.gguf.tokenizer(), plan.gguf.chat_template
    return model


def _on_disk(
    experts: str, expert_memory: int | str | None, prepare: bool, layers: str
) -> Callable | None:
    """What leaves weights on disk as ``load``'s arguments ask for; None for nothing."""
    check_places(experts, expert_memory, layers)
    if layers == "disk":
        return LayersOnDisk
    return partial(ExpertsOnDisk, expert_memory, prepare) if experts == "disk" else None


def _dtype(dtype: str | mx.Dtype | None) -> mx.Dtype | None:
    if dtype is None or dtype in _DTYPES.values():
        return dtype
    if dtype in _DTYPES:
        return _DTYPES[dtype]
    raise CheckpointError(f"dtype is {dtype!r}; expected one of {', '.join(_DTYPES)}")


def _dtype_of(name: str, source: Source, dtype: mx.Dtype | None) -> mx.Dtype | None:
    return dtype


def _cpu_dtype_of(name: str, source: Source) -> mx.Dtype | None:
    """float32, but for the scales of packed experts (see ``model/cpu/quantized.py``)."""
    packed = ".switch_glu." in name and name.endswith((".scales", ".biases"))
    rounded = isinstance(source.stored, Derived) and source.stored.rounded
    return None if packed and not rounded else mx.float32


def _quantize_layers(model: Model, packings: dict[str, Packing]) -> None:
    modules = dict(model.named_modules())
    swapped = [(path, _quantized_layer(modules[path], how)) for path, how in packings.items()]
    if swapped:
        model.update_modules(tree_unflatten(swapped))


def _quantized_layer(layer: nn.Module, packing: Packing) -> nn.Module:
    """A quantized layer to take the place of ``layer`` and receive its packed weights."""
    *experts, rows, width = layer.weight.shape
    how = dict(group_size=packing.group_size, bits=packing.bits, mode=packing.mode)
    if experts:
        return QuantizedSwitchLinear(width, rows, *experts, **how)
    linear, embedding = ops.packed_layers()
    if isinstance(layer, nn.Embedding):
        return embedding(rows, width, **how)
    return linear(width, rows, bias="bias" in layer, **how)


def _hold_ranges(model: Model, sources: dict[str, Source]) -> None:
    """Make the layers round whose step sizes the checkpoint holds."""
    modules = dict(model.named_modules())
    for name in sources:
        path, _, part = name.rpartition(".")
        if part not in STEPS:
            continue
        module = modules[path]
        if not any(step in module for step in STEPS):
            module.__class__ = ranged(type(module))
        module[part] = mx.zeros(sources[name].shape)
        module.freeze(keys=[part], recurse=False)


def _attach(model: Model, folder: Path) -> None:
    """What a checkpoint brings beside its weights."""
    model.folder = folder
    if (folder / "tokenizer.json").is_file():
        from ..processing.tokenizer import Tokenizer

        model.tokenizer = Tokenizer.from_folder(folder)
    model.generation_config = _optional_json(folder, "generation_config.json")
    processor = _optional_json(folder, "processor_config.json")
    model.processor_config = processor or _optional_json(folder, "preprocessor_config.json")
    model.chat_template = _chat_template(folder)


def _optional_json(folder: Path, name: str) -> dict:
    path = folder / name
    return read_json(path) if path.is_file() else {}


def _chat_template(folder: Path) -> str | None:
    """The template from ``chat_template.jinja``, else from the JSON files that may hold it."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from None
    for name in ("tokenizer_config.json", "chat_template.json"):
        template = _optional_json(folder, name).get("chat_template")
        if isinstance(template, list):  # [{"name": "default", "template": ...}, ...]
            named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
            template = named.get("default")
        if isinstance(template, str):
            return template
    return None


def fingerprint(
    config: Gemma4Config, stored: dict[str, Stored], packings: dict[str, Packing]
) -> str:
    """SHA-256 that tells models apart whose caches and traces must not be mixed.

    Over the configuration, every tensor's name, type, shape and first 64 bytes, and how it was
    quantized; not over all the weights, which would take minutes for a large model.
    """
    digest = hashlib.sha256(json.dumps(config.raw, sort_keys=True).encode())
    open_files = {}
    try:
        for name in sorted(stored):
            tensor = stored[name]
            if tensor.file not in open_files:
                open_files[tensor.file] = os.open(tensor.file, os.O_RDONLY)
            digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
            digest.update(os.pread(open_files[tensor.file], min(64, tensor.nbytes), tensor.start))
    finally:
        for descriptor in open_files.values():
            os.close(descriptor)
    for path in sorted(packings):
        digest.update(f"{path} {packings[path]}".encode())
    return digest.hexdigest()
