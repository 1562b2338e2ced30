"""A model taken apart for :class:`Anatomy`: which tensor belongs to which part, and how it works.

Blocks are what data passes in order: towers, embeddings, layers, output. Parts are what a block is
made of. Sizes are those of the model in memory; formulas name the quantities as the taps do.
"""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

#: part -> (name, formula, taps). ``norm`` is RMSNorm with a weight, ``norm0`` without one.
PARTS = {
    "vision": (
        "Vision tower",
        "patches → linear + 2-D position table → encoder layers → pool 3 × 3\n"
        "soft tokens = norm0(pooled) · W",
        (),
    ),
    "audio": (
        "Audio tower",
        "log-mel frames → two strided convolutions (a quarter of the frames) → conformer layers\n"
        "soft tokens = norm0(frames) · W",
        (),
    ),
    "embedding": (
        "Token embeddings",
        "x = E[token] · √H        (soft tokens of pictures and sound are placed unscaled)\n"
        "logits = cap · tanh(norm(x) · Eᵀ / cap)        (the same E: tied)",
        ("tokens", "embeddings", "final_hidden", "logits"),
    ),
    "per_layer_table": (
        "Per-layer embeddings",
        "eₗ = (norm(x · W / √H)ₗ + table[token]ₗ · √P) / √2        one vector for each layer l",
        ("per_layer_inputs",),
    ),
    "attention": (
        "Attention",
        "q = rope(norm(x̂ Wq))    k = rope(norm(x̂ Wk))    v = norm0(x̂ Wv)\n"
        "weights = softmax(q kᵀ) over visible keys        (scale 1)\n"
        "x ← x + norm(weights · v · Wo)",
        (
            "attention_input",
            "queries",
            "keys",
            "values",
            "head_outputs",
            "attention_output",
            "attention_residual",
        ),
    ),
    "mlp": (
        "Dense MLP",
        "mlp(x̂) = (gelu(x̂ Wgate) ⊙ x̂ Wup) Wdown\n"
        "x ← x + norm(mlp(norm(x)))        with experts: x + norm(norm(mlp) + norm(experts))",
        ("mlp_output", "feedforward_output"),
    ),
    "router": (
        "Router",
        "p = softmax(norm0(x) ⊙ scale / √H · W)\n"
        "keep the k largest;  weight = p / Σ kept p · per_expert_scale",
        ("router_logits", "router_probabilities", "expert_indices", "expert_weights"),
    ),
    "experts": (
        "Experts",
        "experts(x̂) = Σ over the k chosen e:  weightₑ · (gelu(x̂ Wgateₑ) ⊙ x̂ Wupₑ) Wdownₑ",
        ("expert_outputs", "moe_output"),
    ),
    "per_layer": (
        "Per-layer input",
        "x ← x + norm((gelu(x Wgate) ⊙ eₗ) Wproj)\nx ← x · layer_scalar",
        ("per_layer_input", "per_layer_output"),
    ),
    "norms": (
        "Norms and scales",
        "norm(x) = x / √(mean(x²) + ε) ⊙ w        in float32",
        ("layer_input", "layer_output"),
    ),
}

_PREFIXES = (  # of a name inside a decoder layer
    ("self_attn.", "attention"),
    ("mlp.", "mlp"),
    ("router.", "router"),
    ("experts.", "experts"),
    ("per_layer_", "per_layer"),
    ("post_per_layer", "per_layer"),
)


@dataclass
class Tensor:
    """One parameter: ``values`` counts weights (unpacked where quantized), ``bytes`` memory."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    values: int
    bytes: int


@dataclass
class Block:
    """A block and its tensors by part. ``layer`` is the decoder layer's index, or None."""

    id: str
    layer: int | None = None
    parts: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, part: str, tensor: Tensor) -> None:
        self.parts.setdefault(part, []).append(tensor)

    def sizes(self) -> list[dict]:
        """``{part, params, bytes, types}`` of each part, in the order of :data:`PARTS`."""
        return [
            {
                "part": part,
                "params": sum(t.values for t in self.parts[part]),
                "bytes": sum(t.bytes for t in self.parts[part]),
                "types": types_of(self.parts[part]),
            }
            for part in PARTS
            if part in self.parts
        ]


def types_of(tensors: list[Tensor]) -> list[str]:
    """Element types, the one with the most bytes first: ``["uint32", "bfloat16"]``."""
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.bytes
    return [name for name, _ in sizes.most_common()]


def blocks_of(model) -> list[Block]:
    """The model's tensors by block and part, in the order data passes through them."""
    from mlx.utils import tree_flatten

    count = len(model.layers)
    order = ["vision", "audio", "embedding", "per_layer_table"]
    blocks = {name: Block(name) for name in order}
    blocks |= {f"layer{i}": Block(f"layer{i}", i) for i in range(count)}
    blocks["output"] = Block("output")
    packed = _quantized_modules(model)
    for name, array in tree_flatten(model.parameters()):
        block, part = _place(name)
        tensor = Tensor(
            name,
            tuple(array.shape),
            str(array.dtype).removeprefix("mlx.core."),
            _values(name, array, packed),
            array.nbytes,
        )
        blocks[block].add(part, tensor)
    return [block for block in blocks.values() if block.parts]


def _place(name: str) -> tuple[str, str]:
    """(block id, part) of a parameter."""
    text = "language_model.model."
    if name.startswith(("vision", "embed_vision")):
        return "vision", "vision"
    if name.startswith(("audio", "embed_audio")):
        return "audio", "audio"
    if name.startswith(f"{text}layers."):
        index, inner = name.removeprefix(f"{text}layers.").split(".", 1)
        part = next((p for prefix, p in _PREFIXES if inner.startswith(prefix)), "norms")
        return f"layer{index}", part
    if name.startswith(f"{text}embed_tokens."):
        return "embedding", "embedding"
    if name.startswith((f"{text}embed_tokens_per_layer", f"{text}per_layer_")):
        return "per_layer_table", "per_layer_table"
    return "output", "norms"


def _quantized_modules(model) -> dict[str, int]:
    """Path of every quantized module -> bits of its weights."""
    return {path: m.bits for path, m in model.named_modules() if hasattr(m, "bits")}


def _values(name: str, array, packed: dict[str, int]) -> int:
    """Weights a tensor stands for: scales and biases of a quantized one stand for none."""
    owner, _, leaf = name.rpartition(".")
    if owner in packed:
        if leaf in ("scales", "biases"):
            return 0
        if leaf == "weight":
            return array.size * 32 // packed[owner]
    return array.size


def layer_facts(model) -> list[dict]:
    """What is particular about each decoder layer."""
    text = model.config.text
    itemsize = model.dtype.size
    facts = []
    for i in range(text.num_hidden_layers):
        full, donor = text.is_full(i), text.kv_donor(i)
        owns = donor == i
        facts.append(
            {
                "layer": i,
                "kind": "full" if full else "sliding",
                "window": None if full else text.sliding_window,
                "donor": None if owns else donor,
                "heads": text.num_attention_heads,
                "kv_heads": text.kv_heads_of(i),
                "head_dim": text.head_dim_of(i),
                "k_eq_v": owns and text.k_eq_v(i),
                "mlp_width": text.mlp_width(i),
                "kv_bytes": 2 * text.kv_heads_of(i) * text.head_dim_of(i) * itemsize if owns else 0,
            }
        )
    return facts


def cache_bytes(facts: list[dict], tokens: int) -> tuple[int, int]:
    """Bytes of keys and values of sliding and of full layers after ``tokens`` tokens.

    A sliding layer holds its window at most; the slack for rewinding is left out.
    """
    sliding = sum(f["kv_bytes"] * min(tokens, f["window"]) for f in facts if f["window"])
    full = sum(f["kv_bytes"] * tokens for f in facts if not f["window"])
    return sliding, full


def code_of(model, block: Block, part: str) -> list[dict]:
    """The source of what computes a part: ``{file, line, name, source}`` for each piece."""
    import gemma4_mlx

    root = Path(gemma4_mlx.__file__).parent.parent
    found = []
    for piece in _pieces(model, block, part):
        try:
            lines, start = inspect.getsourcelines(piece)
        except (OSError, TypeError):  # no source at hand, as in a frozen application
            continue
        file = Path(inspect.getsourcefile(piece))
        shown = file.relative_to(root) if file.is_relative_to(root) else Path(file.name)
        found.append(
            {
                "file": shown.as_posix(),
                "line": start,
                "name": piece.__qualname__,
                "source": inspect.cleandoc("\n" + "".join(lines)),
            }
        )
    return found


def _pieces(model, block: Block, part: str) -> list:
    """The classes and functions that compute a part of a block."""
    text = model.language_model.model
    if part == "vision":
        name = "vision_embedder" if "vision_embedder" in model else "vision_tower"
        return [type(model[name]), type(model).encode_image]
    if part == "audio":
        tower = [type(model.audio_tower)] if "audio_tower" in model else []
        return [*tower, type(model).encode_audio]
    if part == "embedding":
        return [type(text).embed, type(model.language_model).head]
    if part == "per_layer_table":
        return [type(text).per_layer_inputs]
    if block.layer is None:
        return [type(text.norm)]
    layer = model.layers[block.layer]
    if part == "attention":
        return [type(layer.self_attn)]
    if part == "mlp":
        return [type(layer.mlp), type(layer).feed_forward]
    if part == "router":
        return [type(layer.router)]
    if part == "experts":
        return [type(layer.experts), type(layer.experts.switch_glu)]
    return [type(layer).__call__]
