"""Every tensor a Gemma 4 model has, from its configuration alone.

Pure arithmetic: no MLX, no file, no download. The size planner adds these shapes up, and the
benchmarks write checkpoints of true size from them. Names are those of the model tree, which are
mlx-community's (``language_model.model.layers.0.self_attn.q_proj.weight``).
Source of names and shapes: transformers, ``models/gemma4/modeling_gemma4.py``. With the
key and value tensors that KV-shared layers leave unused (:func:`unused_tensors`), E2B has
5 123 178 979 elements, the number in the header of its published file.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from ..config import (
    AudioConfig,
    Gemma4Config,
    TextConfig,
    UnifiedAudioConfig,
    UnifiedVisionConfig,
    VisionConfig,
)

TEXT = "language_model.model."


@dataclass(frozen=True)
class Tensor:
    """One tensor of the model.

    Attributes:
        shape: its shape, in MLX layout (convolutions: out, kernel..., in).
        part: what the planner counts it as: ``"embeddings"``, ``"per-layer embeddings"``,
            ``"attention"``, ``"mlp"``, ``"experts"``, ``"router"``, ``"norms"``, ``"vision"`` or
            ``"audio"``.
        quantizable: it is the matrix of a text projection, an embedding table or the experts.
    """

    shape: tuple[int, ...]
    part: str
    quantizable: bool = False

    @property
    def size(self) -> int:
        return prod(self.shape)


def tensors(config: Gemma4Config) -> dict[str, Tensor]:
    """All tensors of the model, by name, in the order the data flows."""
    found = dict(_text(config.text))
    if isinstance(config.vision, UnifiedVisionConfig):
        found |= _unified_vision(config.vision, config.text.hidden_size)
    elif config.vision is not None:
        found |= _vision(config.vision, config.text.hidden_size)
    if isinstance(config.audio, UnifiedAudioConfig):
        width = config.audio.audio_embed_dim
        found["embed_audio.embedding_projection.weight"] = Tensor(
            (config.text.hidden_size, width), "audio"
        )
    elif config.audio is not None:
        found |= _audio(config.audio, config.text.hidden_size)
    return found


def unused_tensors(config: Gemma4Config) -> dict[str, Tensor]:
    """The k, v and k_norm of KV-shared layers: published files hold them, nothing reads them."""
    text, found = config.text, {}
    for layer in range(text.first_kv_shared_layer, text.num_hidden_layers):
        head_dim, width = text.head_dim_of(layer), text.hidden_size
        out = text.kv_heads_of(layer) * head_dim
        base = f"{TEXT}layers.{layer}.self_attn."
        found[base + "k_proj.weight"] = Tensor((out, width), "attention")
        if not text.k_eq_v(layer):
            found[base + "v_proj.weight"] = Tensor((out, width), "attention")
        found[base + "k_norm.weight"] = Tensor((head_dim,), "norms")
    return found


def count(config: Gemma4Config) -> dict[str, int]:
    """Parameters by part, and their sum as ``"text"`` (all parts but the two towers)."""
    parts: dict[str, int] = {}
    for tensor in tensors(config).values():
        parts[tensor.part] = parts.get(tensor.part, 0) + tensor.size
    parts["text"] = sum(n for part, n in parts.items() if part not in ("vision", "audio"))
    return parts


def layer_sizes(config: Gemma4Config, packings: Mapping) -> tuple[list[int], int]:
    """Bytes of each decoder layer, its columns of the per-layer table included, and of everything
    else; in 16 bits where ``packings`` (module path -> packing) does not say how a matrix is
    packed."""
    L, others = config.text.num_hidden_layers, 0
    layers = [0] * L
    for name, tensor in tensors(config).items():
        packing = packings.get(name.removesuffix(".weight"))
        size = packing.nbytes(tensor.shape, 2) if packing else 2 * tensor.size
        if name.startswith(TEXT + "layers."):
            layers[int(name.removeprefix(TEXT + "layers.").partition(".")[0])] += size
        elif tensor.part == "per-layer embeddings":
            layers = [held + size // L for held in layers]
        else:
            others += size
    return layers, others


def _text(c: TextConfig) -> Iterator[tuple[str, Tensor]]:
    H, P = c.hidden_size, c.hidden_size_per_layer_input
    yield TEXT + "embed_tokens.weight", Tensor((c.vocab_size, H), "embeddings", True)
    if P:
        wide = c.num_hidden_layers * P
        table = (c.vocab_size_per_layer_input, wide)
        part = "per-layer embeddings"
        yield TEXT + "embed_tokens_per_layer.weight", Tensor(table, part, True)
        yield TEXT + "per_layer_model_projection.weight", Tensor((wide, H), part, True)
        yield TEXT + "per_layer_projection_norm.weight", Tensor((P,), "norms")
    for layer in range(c.num_hidden_layers):
        for name, tensor in _layer(c, layer):
            yield f"{TEXT}layers.{layer}.{name}", tensor
    yield TEXT + "norm.weight", Tensor((H,), "norms")
    if not c.tie_word_embeddings:
        yield "language_model.lm_head.weight", Tensor((c.vocab_size, H), "embeddings", True)


def _layer(c: TextConfig, layer: int) -> Iterator[tuple[str, Tensor]]:
    H, D = c.hidden_size, c.head_dim_of(layer)
    q_out, kv_out = c.num_attention_heads * D, c.kv_heads_of(layer) * D
    yield "self_attn.q_proj.weight", Tensor((q_out, H), "attention", True)
    yield "self_attn.q_norm.weight", Tensor((D,), "norms")
    if layer < c.first_kv_shared_layer:
        yield "self_attn.k_proj.weight", Tensor((kv_out, H), "attention", True)
        yield "self_attn.k_norm.weight", Tensor((D,), "norms")
        if not c.k_eq_v(layer):
            yield "self_attn.v_proj.weight", Tensor((kv_out, H), "attention", True)
    yield "self_attn.o_proj.weight", Tensor((H, q_out), "attention", True)
    wide = c.mlp_width(layer)
    yield "mlp.gate_proj.weight", Tensor((wide, H), "mlp", True)
    yield "mlp.up_proj.weight", Tensor((wide, H), "mlp", True)
    yield "mlp.down_proj.weight", Tensor((H, wide), "mlp", True)
    norms = [
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ]
    if c.enable_moe_block:
        E, I = c.num_experts, c.moe_intermediate_size
        yield "router.proj.weight", Tensor((E, H), "router", True)
        yield "router.scale", Tensor((H,), "router")
        yield "router.per_expert_scale", Tensor((E,), "router")
        experts = "experts.switch_glu."
        yield experts + "gate_proj.weight", Tensor((E, I, H), "experts", True)
        yield experts + "up_proj.weight", Tensor((E, I, H), "experts", True)
        yield experts + "down_proj.weight", Tensor((E, H, I), "experts", True)
        norms += [
            "pre_feedforward_layernorm_2",
            "post_feedforward_layernorm_1",
            "post_feedforward_layernorm_2",
        ]
    if P := c.hidden_size_per_layer_input:
        part = "per-layer embeddings"
        yield "per_layer_input_gate.weight", Tensor((P, H), part, True)
        yield "per_layer_projection.weight", Tensor((H, P), part, True)
        norms.append("post_per_layer_input_norm")
    for norm in norms:
        yield norm + ".weight", Tensor((H,), "norms")
    yield "layer_scalar", Tensor((1,), "norms")


def _clipped(name: str, out: int, width: int, clips: bool, part: str) -> dict[str, Tensor]:
    """A linear layer of a tower, with the four clip bounds that E2B and E4B store beside it."""
    found = {f"{name}.linear.weight": Tensor((out, width), part)}
    if clips:
        for bound in ("input_min", "input_max", "output_min", "output_max"):
            found[f"{name}.{bound}"] = Tensor((), part)
    return found


def _vision(c: VisionConfig, hidden: int) -> dict[str, Tensor]:
    D, head, part = c.hidden_size, c.head_dim, "vision"
    base = "vision_tower."
    pixels = 3 * c.patch_size**2
    found = {
        base + "patch_embedder.input_proj.weight": Tensor((D, pixels), part),
        base + "patch_embedder.position_embedding_table": Tensor(
            (2, c.position_embedding_size, D), part
        ),
    }
    for layer in range(c.num_hidden_layers):
        b = f"{base}encoder.layers.{layer}."
        for norm in (
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ):
            found[f"{b}{norm}.weight"] = Tensor((D,), part)
        q_out, kv_out = c.num_attention_heads * head, c.num_key_value_heads * head
        for name, out, width in (
            ("self_attn.q_proj", q_out, D),
            ("self_attn.k_proj", kv_out, D),
            ("self_attn.v_proj", kv_out, D),
            ("self_attn.o_proj", D, q_out),
            ("mlp.gate_proj", c.intermediate_size, D),
            ("mlp.up_proj", c.intermediate_size, D),
            ("mlp.down_proj", D, c.intermediate_size),
        ):
            found |= _clipped(b + name, out, width, c.use_clipped_linears, part)
        found[b + "self_attn.q_norm.weight"] = Tensor((head,), part)
        found[b + "self_attn.k_norm.weight"] = Tensor((head,), part)
    if c.standardize:
        found[base + "std_bias"] = Tensor((D,), part)
        found[base + "std_scale"] = Tensor((D,), part)
    found["embed_vision.embedding_projection.weight"] = Tensor((hidden, D), part)
    return found


def _audio(c: AudioConfig, hidden: int) -> dict[str, Tensor]:
    D, part, clips = c.hidden_size, "audio", c.use_clipped_linears
    first, second = c.subsampling_conv_channels
    base = "audio_tower."
    conv = base + "subsample_conv_projection."
    # A quarter of the mel bins (as many as the first convolution has channels) times channels.
    flat = first // 4 * second
    found = {
        conv + "layer0.conv.weight": Tensor((first, 3, 3, 1), part),
        conv + "layer0.norm.weight": Tensor((first,), part),
        conv + "layer1.conv.weight": Tensor((second, 3, 3, first), part),
        conv + "layer1.norm.weight": Tensor((second,), part),
        conv + "input_proj_linear.weight": Tensor((D, flat), part),
    }
    for layer in range(c.num_hidden_layers):
        b = f"{base}layers.{layer}."
        for ff in ("feed_forward1", "feed_forward2"):
            found[f"{b}{ff}.pre_layer_norm.weight"] = Tensor((D,), part)
            found[f"{b}{ff}.post_layer_norm.weight"] = Tensor((D,), part)
            found |= _clipped(f"{b}{ff}.ffw_layer_1", 4 * D, D, clips, part)
            found |= _clipped(f"{b}{ff}.ffw_layer_2", D, 4 * D, clips, part)
        for name in ("q_proj", "k_proj", "v_proj", "post"):
            found |= _clipped(f"{b}self_attn.{name}", D, D, clips, part)
        found[b + "self_attn.relative_k_proj.weight"] = Tensor((D, D), part)
        found[b + "self_attn.per_dim_scale"] = Tensor((D // c.num_attention_heads,), part)
        for norm in ("norm_pre_attn", "norm_post_attn", "norm_out"):
            found[f"{b}{norm}.weight"] = Tensor((D,), part)
        found[b + "lconv1d.pre_layer_norm.weight"] = Tensor((D,), part)
        found[b + "lconv1d.conv_norm.weight"] = Tensor((D,), part)
        found |= _clipped(b + "lconv1d.linear_start", 2 * D, D, clips, part)
        found |= _clipped(b + "lconv1d.linear_end", D, D, clips, part)
        kernel = (D, c.conv_kernel_size, 1)
        found[b + "lconv1d.depthwise_conv1d.weight"] = Tensor(kernel, part)
    out = c.output_proj_dims
    found[base + "output_proj.weight"] = Tensor((out, D), part)
    found[base + "output_proj.bias"] = Tensor((out,), part)
    found["embed_audio.embedding_projection.weight"] = Tensor((hidden, out), part)
    return found


def _unified_vision(c: UnifiedVisionConfig, hidden: int) -> dict[str, Tensor]:
    D, part = c.mm_embed_dim, "vision"
    pixels = 3 * (c.patch_size * c.pooling_kernel_size) ** 2
    base = "vision_embedder."
    found = {base + "pos_embedding": Tensor((c.mm_posemb_size, 2, D), part)}
    for name, width in (("patch_ln1", pixels), ("patch_ln2", D), ("pos_norm", D)):
        found[f"{base}{name}.weight"] = Tensor((width,), part)
        found[f"{base}{name}.bias"] = Tensor((width,), part)
    found[base + "patch_dense.weight"] = Tensor((D, pixels), part)
    found[base + "patch_dense.bias"] = Tensor((D,), part)
    found["embed_vision.embedding_projection.weight"] = Tensor((hidden, D), part)
    return found
