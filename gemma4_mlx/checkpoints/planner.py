"""Will it fit? Bytes by part of any model, bit width and context, before anything is downloaded.

Weights and caches are counted tensor by tensor, so they are exact; activations are an upper bound
for one chunk of a prompt, and the runtime (Python, MLX and their libraries) is a constant.
"""

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from numbers import Integral
from pathlib import Path

from ..config import Gemma4Config, TextConfig
from ..errors import ClusterError, ConfigError, ContextError, GenerationError
from ..model.shares import Shares
from ..model.sizes import SLACK, STEP, block_rows, checked_kv_bits
from ..model.stages import Stages
from .disk.planning import (
    Reading,
    check_places,
    expert_bytes,
    with_experts_on_disk,
    with_layers_on_disk,
)
from .disk.planning import disk_speed as disk_speed_of
from .inventory import Tensor, tensors
from .machine import GiB, Machine, this_machine
from .packing import Packing, asked_for, choose
from .released import released
from .sharing import ClusterFit, divisions, kv_heads_of, shape_of, traffic

#: Prompt tokens computed at once (``gemma4_mlx.stream``'s prefill_chunk).
CHUNK = 2048
#: Resident memory of Python with MLX, a tokenizer and this package, before any weight.
RUNTIME = 130 * 2**20
#: Order in which parts are shown.
PARTS = (
    "embeddings",
    "per-layer embeddings",
    "attention",
    "mlp",
    "experts",
    "router",
    "norms",
    "vision",
    "audio",
)


@dataclass(frozen=True)
class Fit:
    """What a model needs, in bytes.

    Attributes:
        name: the model's name.
        packing: how the text weights are packed, as text (``"affine 4 bit, groups of 64"``).
        context: tokens of prompt and answer together.
        weights: bytes of the weights by part (see :data:`PARTS`).
        cache: bytes of keys and values: ``"sliding"`` and ``"full"`` layers.
        activations: upper bound of what computing one chunk of a prompt needs besides.
        runtime: Python, MLX and libraries.
        machine: what there is.
        most: the longest context this machine can hold, 0 if not even an empty one.
        reading: what a token reads, where experts or layers stay on disk; else None.
    """

    name: str
    packing: str
    context: int
    weights: dict[str, int]
    cache: dict[str, int]
    activations: int
    runtime: int
    machine: Machine
    most: int
    reading: Reading | None = None

    @cached_property
    def total(self) -> int:
        """All of it, in bytes."""
        fixed = self.activations + self.runtime
        return sum(self.weights.values()) + sum(self.cache.values()) + fixed

    @property
    def fits(self) -> bool:
        return self.total <= self.machine.usable

    @property
    def spare(self) -> int:
        """Bytes that stay free; negative where it does not fit."""
        return self.machine.usable - self.total

    def rows(self) -> list[tuple[str, int]]:
        """(what, bytes), in the order to show them, without the total."""
        rows = list(self.weights.items())
        rows += [(f"cache, {kind} layers", size) for kind, size in self.cache.items()]
        return [*rows, ("activations, at most", self.activations), ("runtime", self.runtime)]

    @property
    def verdict(self) -> str:
        """One sentence."""
        has = f"{gib(self.machine.usable)} of {self.machine}"
        if self.fits:
            reads = f"; {self.reading}" if self.reading else ""
            return f"fits: {gib(self.spare)} to spare of {has}; up to {self.most:,} tokens{reads}"
        if self.most:
            return f"does not fit {has} at this context; up to {self.most:,} tokens do"
        return f"does not fit {has}"

    def __str__(self) -> str:
        lines = [f"{self.name}, {self.packing}, {self.context:,} tokens"]
        lines += [f"  {what:<28}{gib(size):>12}" for what, size in self.rows()]
        return "\n".join([*lines, f"  {'total':<28}{gib(self.total):>12}", f"  {self.verdict}"])

    def _repr_html_(self) -> str:
        rows = [*self.rows(), ("<b>total</b>", self.total)]
        body = "".join(
            f"<tr><td style='text-align:left'>{what}</td><td>{gib(size)}</td></tr>"
            for what, size in rows
        )
        title = f"{_escape(self.name)}, {self.packing}, {self.context:,} tokens"
        return f"<table><caption>{title}</caption>{body}</table><p>{_escape(self.verdict)}</p>"


def fit(
    model: "str | Path | Gemma4Config | object" = "26b-a4b",
    bits: int | None = 4,
    context: int = 8_192,
    kv_bits: int | None = None,
    memory: float | None = None,
    *,
    group_size: int = 64,
    mode: str = "affine",
    chunk: int = CHUNK,
    experts: str = "memory",
    expert_memory: int | str | None = None,
    layers: str = "memory",
    disk_speed: float | None = None,
    machines: Sequence[float] | None = None,
    strategy: str = "tensor",
) -> Fit | ClusterFit:
    """How much memory a model takes, and whether this machine has it. Downloads nothing.

    Args:
        model: a released model's name (``"e2b"``, ``"e4b"``, ``"12b"``, ``"26b-a4b"``, ``"31b"``,
            or its hub id), a checkpoint folder, a configuration, or a loaded model.
        bits: bits of the text weights; None or 16 for unquantized ones. A folder that holds
            quantized weights, and a loaded model, are taken as they are (on a Mac of ``memory``
            GiB what is not quantized in 16 bits, as :func:`gemma4_mlx.load` would have it there).
        context: tokens of prompt and answer together.
        kv_bits: 8 or 4 if the keys and values of full-attention layers are quantized.
        memory: GiB of a Mac to plan for; None takes this machine as it is.
        group_size, mode: as in :func:`gemma4_mlx.load`.
        chunk: prompt tokens computed at once.
        experts, expert_memory, layers: as in :func:`gemma4_mlx.load`; without ``expert_memory``,
            experts get what the rest leaves.
        disk_speed: GB a second that the disk reads; by default measured, where ``model`` is a
            checkpoint's folder.
        machines: GiB of each of several Macs that compute the model together, rank 0 first; the
            result is a :class:`.sharing.ClusterFit`.
        strategy: how they divide it, as in :func:`gemma4_mlx.load`.

    Raises:
        ClusterError: machines that cannot divide the model, or weights on disk with several.
        ConfigError: no such model, or what is none.
        CheckpointError: bits, group size and mode that do not go together, a folder that cannot
            be read, or no room for as many experts as a token needs.
        ContextError: the context is not within the model's.
        GenerationError: ``kv_bits`` other than 8, 4 and None, or ``chunk`` below 1.
        ValueError: ``memory`` is no number of GiB.
    """
    checked_kv_bits(kv_bits)
    check_places(experts, expert_memory, layers)
    if not isinstance(chunk, Integral) or chunk < 1:
        raise GenerationError(f"chunk must be 1 token or more, not {chunk!r}.")
    machine = this_machine() if memory is None else Machine.mac(memory)
    name, config, packings = _describe(model)
    text = config.text
    if not isinstance(context, Integral) or not 1 <= context <= text.max_position_embeddings:
        raise ContextError(
            f"context is {context!r} tokens; {name} takes 1 to {text.max_position_embeddings:,}"
        )
    if packings is None:
        packing = None if bits in (None, 16) and mode == "affine" else bits
        packing = asked_for(packing, group_size, mode)
        packings = choose(tensors(config), packing)
    else:
        packing = next(iter(packings.values()), None)
    if machines is not None:
        if "disk" in (experts, layers):
            raise ClusterError("several machines hold all weights in memory: leave out 'disk'")
        at_most = dict(kv_bits=kv_bits, group_size=group_size, chunk=chunk)
        return _on_machines(name, config, packings, packing, machines, strategy, context, at_most)
    as_loaded = memory is None and hasattr(model, "named_modules")
    item = model.dtype.size if as_loaded else machine.itemsize
    weights, reading = (
        held_bytes(model) if as_loaded else weight_bytes(config, packings, item),
        None,
    )
    if "disk" in (experts, layers):
        speed = disk_speed * 1e9 if disk_speed else _speed(model)
    plan = dict(
        name=name,
        packing=str(packing) if packing else f"{8 * item} bit",
        runtime=RUNTIME,
        machine=machine,
    )

    def at(tokens: int) -> dict:
        return dict(
            cache=cache_bytes(text, tokens, item, kv_bits, group_size, chunk),
            activations=activation_bytes(
                text, tokens, item, kv_bits, chunk, on_cpu=machine.backend == "cpu"
            ),
        )

    if layers == "disk":
        by_layer = weight_bytes(config, packings, item, by=_layer_of)
        by_layer.pop(None)
        weights, reading = with_layers_on_disk(weights, list(by_layer.values()), speed)
    elif experts == "disk":
        if expert_memory is None:
            rest = weights | {"experts": 0}
            room = Fit(context=context, most=0, weights=rest, **plan, **at(context)).spare
        else:
            room = expert_bytes(expert_memory)
        weights, reading = with_experts_on_disk(weights, config, room, speed)
    plan |= dict(weights=weights, reading=reading)

    def holds(tokens: int) -> bool:
        return Fit(context=tokens, most=0, **plan, **at(tokens)).fits

    most = _most(holds, text.max_position_embeddings)
    return Fit(context=context, most=most, **plan, **at(context))


def _on_machines(
    name: str,
    config: Gemma4Config,
    packings: dict[str, Packing],
    packing: Packing | None,
    machines: Sequence[float],
    strategy: str,
    context: int,
    at_most: dict,
) -> ClusterFit:
    """The plan for each of several Macs; ``at_most``: bits of keys and values, tokens at once."""
    text, macs = config.text, [Machine.mac(memory) for memory in machines]
    if len(macs) < 2:
        raise ClusterError(f"machines names {len(macs)}; a cluster has 2 or more")
    item = macs[0].itemsize
    parts = divisions(config, packings, [mac.usable for mac in macs], strategy)
    named = dict(name=name, packing=str(packing) if packing else f"{8 * item} bit", runtime=RUNTIME)
    weights = [weight_bytes(config, packings, item, division=part) for part in parts]

    def at(tokens: int) -> list[Fit]:
        activations = activation_bytes(text, tokens, item, at_most["kv_bits"], at_most["chunk"])
        return [
            Fit(
                **named,
                machine=mac,
                context=tokens,
                most=0,
                weights=held,
                cache=cache_bytes(text, tokens, item, **at_most, kv_heads=kv_heads_of(part)),
                activations=activations,
            )
            for mac, part, held in zip(macs, parts, weights)
        ]

    most = _most(lambda n: all(one.fits for one in at(n)), text.max_position_embeddings)
    ranks = tuple(replace(one, most=most) for one in at(context))
    return ClusterFit(strategy, ranks, most, tuple(traffic(config, p, item) for p in parts))


def _most(holds, longest: int) -> int:
    """The largest context for which ``holds`` is true, by bisection."""
    low, high = 0, longest
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _describe(model) -> tuple[str, Gemma4Config, dict[str, Packing] | None]:
    """Name, configuration and, where it is settled, the packing of each module."""
    if isinstance(model, Gemma4Config):
        return model.model_type, model, None
    if hasattr(model, "config") and hasattr(model, "named_modules"):
        packings = {  # an adapted layer holds the packed one as its "linear"
            path.removesuffix(".linear"): Packing(module.bits, module.group_size, module.mode)
            for path, module in model.named_modules()
            if hasattr(module, "bits") and hasattr(module, "group_size")
        }
        return model.source or model.model_type, model.config, packings
    if not isinstance(model, str | Path):
        raise ConfigError(
            f"a {type(model).__name__} is no model's name, folder or configuration, and no model"
        )
    if Path(model).expanduser().exists():
        from .find import find
        from .plan import read_plan

        plan = read_plan(find(Path(model)))
        return Path(model).name, plan.config, plan.packings or None
    if not isinstance(model, str):
        raise ConfigError(f"{model} is no folder, and not a model's name or configuration")
    known = released(model)
    return known.name, known.config, None


def weight_bytes(
    config: Gemma4Config,
    packings: dict[str, Packing],
    itemsize: int,
    by: Callable[[str, Tensor], Hashable] = lambda name, tensor: tensor.part,
    division: Shares | Stages | None = None,
) -> dict:
    """Bytes of the weights by part, ``itemsize`` each where a module is not packed; or by what
    ``by`` says of a tensor's name and the tensor. ``division``: of what one machine has of them."""
    sums = dict.fromkeys(PARTS, 0)
    for name, tensor in tensors(config).items():
        shape = tensor.shape if division is None else shape_of(division, name, tensor)
        if shape is None:
            continue
        packing = packings.get(name.removesuffix(".weight"))
        # The experts' scales stay in 16 bits on every backend.
        scale = 2 if tensor.part == "experts" else itemsize
        size = prod(shape) * itemsize if packing is None else packing.nbytes(shape, scale)
        sums[by(name, tensor)] = sums.get(by(name, tensor), 0) + size
    return {part: size for part, size in sums.items() if size}


def _layer_of(name: str, tensor: Tensor) -> int | None:
    """The decoder layer that a matrix belongs to."""
    found = re.match(r"language_model\.model\.layers\.(\d+)\.", name)
    return int(found[1]) if found and len(tensor.shape) > 1 else None


def _speed(model) -> float | None:
    """Bytes a second of reading a checkpoint's largest file, None where ``model`` is no folder."""
    if not isinstance(model, str | Path) or not (folder := Path(model).expanduser()).is_dir():
        return None
    files = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_size)
    return disk_speed_of(files[-1]) if files else None


def held_bytes(model) -> dict[str, int]:
    """Bytes of a loaded model's weights by part, as they are in memory; an adapter's count to the
    part that they adapt."""
    from mlx.utils import tree_flatten

    part_of = {name.removesuffix(".weight"): t.part for name, t in tensors(model.config).items()}
    parts = dict.fromkeys(PARTS, 0)
    for name, array in tree_flatten(model.parameters()):
        while name not in part_of:  # "...q_proj.lora_a", "...q_proj.linear.scales"
            name = name.rpartition(".")[0]
        parts[part_of[name]] += array.nbytes
    return {part: size for part, size in parts.items() if size}


def cache_bytes(
    text: TextConfig,
    tokens: int,
    itemsize: int,
    kv_bits: int | None = None,
    group_size: int = 64,
    chunk: int = CHUNK,
    kv_heads: Callable[[int], int] | None = None,
) -> dict[str, int]:
    """Bytes of keys and values after ``tokens`` tokens, by kind of layer.

    Full layers hold every token; sliding ones the window, some slack and the last chunk; layers
    that share another's keys and values hold none. E2B in bfloat16 at 32,768 tokens: 3 full
    layers of 2,048 bytes a token, and 12 sliding ones of 1,024. ``kv_heads``: of a layer, where not
    all of them are held.
    """
    found = {"sliding": 0, "full": 0}
    for layer in range(text.first_kv_shared_layer):
        heads = (kv_heads or text.kv_heads_of)(layer)
        numbers = 2 * heads * text.head_dim_of(layer)
        if not text.is_full(layer):
            held = min(tokens, text.sliding_window - 1 + SLACK + max(min(chunk, tokens), STEP))
            found["sliding"] += held * numbers * itemsize
        elif kv_bits is None:
            found["full"] += tokens * numbers * itemsize
        else:
            found["full"] += tokens * numbers * kv_bits // 8
            found["full"] += tokens * numbers // group_size * 2 * itemsize
    return found


def snapshot_bytes(text: TextConfig, tokens: int, itemsize: int) -> int:
    """Bytes of one copy of what the sliding layers need to go on from a position: the keys and
    values of ``sliding_window - 1`` tokens. E2B in bfloat16: 12 layers of 511 x 1,024 bytes."""
    sliding = [i for i in range(text.first_kv_shared_layer) if not text.is_full(i)]
    held = min(tokens, text.sliding_window - 1)
    return sum(_numbers(text, i) for i in sliding) * held * itemsize


def _numbers(text: TextConfig, layer: int) -> int:
    """How many numbers the keys and values of one token are in one layer."""
    return 2 * text.kv_heads_of(layer) * text.head_dim_of(layer)


def activation_bytes(
    text: TextConfig,
    tokens: int,
    itemsize: int,
    kv_bits: int | None = None,
    chunk: int = CHUNK,
    on_cpu: bool = False,
) -> int:
    """Upper bound of what computing one chunk of a prompt needs beside weights and cache.

    The residual stream and its neighbours and the per-layer inputs; beside them, one after the
    other, attention (heads, two blocks of scores and what the softmax makes of them, one full
    layer's keys and values, copied when its buffer grows or unpacked when they are quantized) and
    feed-forward (the widest MLP, the experts' rows); the logits of one position. ``on_cpu``: on
    MLX's CPU backend float32's scores stay in the processor's cache.

    On the teaching model a whole generation needs 0.6 to 1 times what this and
    :func:`cache_bytes` allow.
    """
    H, n = text.hidden_size, min(chunk, tokens)
    layers = range(text.num_hidden_layers)
    stream = 8 * H + 3 * text.num_hidden_layers * text.hidden_size_per_layer_input

    heads = text.num_attention_heads * max(text.head_dim_of(i) for i in layers)
    full = [i for i in layers if text.is_full(i)]
    one_layer = max((_numbers(text, i) for i in full), default=0)
    in_numpy = on_cpu and itemsize == 4  # as model/ops.py decides
    row = text.num_attention_heads * tokens * itemsize
    rows = block_rows(tokens, row, in_numpy)
    if in_numpy:
        scores = 3 * min(n, rows) * tokens + 3 * row
    else:
        scores = 2 * min(n, 2 * rows) * row
    one_layer = one_layer * itemsize + (one_layer * kv_bits // 8 if kv_bits else 0)
    attention = n * 6 * heads * itemsize + tokens * one_layer + scores

    wide = 3 * max(text.mlp_width(i) for i in layers)
    if text.enable_moe_block:
        wide += text.top_k_experts * (3 * text.moe_intermediate_size + 2 * H)
    return n * stream * itemsize + max(attention, n * wide * itemsize) + 6 * 4 * text.vocab_size


def gib(size: float) -> str:
    """A size in GiB, a small one in MiB."""
    if abs(size) < 0.1 * GiB:
        return f"{size / 2**20:.1f} MiB"
    return f"{size / GiB:.2f} GiB"


def _escape(text: str) -> str:
    from html import escape

    return escape(text)
