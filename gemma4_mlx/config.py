"""``config.json`` of a Gemma 4 checkpoint as typed, checked dataclasses.

Two spellings exist and both are read: the hub's (``global_head_dim`` and
``num_global_key_value_heads`` beside ``head_dim`` and ``num_key_value_heads``) and the one that
transformers 5.15 and later saves (a ``per_layer_config`` map holding each layer's overrides).
Nothing is guessed from a model's name; ``layer_types`` is read from the file.
"""

import json
import logging
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import ConfigError

log = logging.getLogger(__name__)

SLIDING, FULL = "sliding_attention", "full_attention"
_MODEL_TYPES = ("gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text")
#: Values of ``quant_method`` whose files are read (``checkpoints/foreign``); MLX's name none.
_QUANTIZATIONS = (None, "mlx", "compressed-tensors", "modelopt", "fp8", "fbgemm_fp8", "gemma")
_GELU = "gelu_pytorch_tanh"
#: No released model comes near these; a larger value is a damaged file, refused before any
#: memory is asked for.
_LARGEST = {
    "vocab_size": 1 << 22,
    "hidden_size": 1 << 16,
    "intermediate_size": 1 << 19,
    "num_hidden_layers": 1024,
    "num_attention_heads": 1024,
    "num_key_value_heads": 1024,
    "head_dim": 1 << 13,
    "num_experts": 1 << 13,
    "max_position_embeddings": 1 << 26,
}


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of one layer type.

    ``partial_rotary_factor`` below 1 is Gemma 4's proportional form: that share of the head's
    angles turns, the rest stand still (transformers, ``modeling_rope_utils.py``).
    """

    theta: float = 10_000.0
    partial_rotary_factor: float = 1.0
    factor: float = 1.0


@dataclass(frozen=True)
class TextConfig:
    """The text decoder. Field names are those of ``text_config`` in ``config.json``."""

    vocab_size: int = 262_144
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 30
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    num_global_key_value_heads: int | None = None
    head_dim: int = 256
    global_head_dim: int = 512
    layer_types: tuple[str, ...] = ()
    sliding_window: int = 512
    max_position_embeddings: int = 131_072
    num_kv_shared_layers: int = 0
    attention_k_eq_v: bool = False  # full-attention layers take their values from k_proj
    use_double_wide_mlp: bool = False  # KV-shared layers have an MLP of twice the width
    hidden_size_per_layer_input: int = 0  # 0: no per-layer embeddings
    vocab_size_per_layer_input: int = 262_144
    enable_moe_block: bool = False
    num_experts: int = 0
    top_k_experts: int = 0
    moe_intermediate_size: int = 0
    final_logit_softcapping: float | None = None
    use_bidirectional_attention: str | None = None  # "vision": image blocks, sliding layers only
    rms_norm_eps: float = 1e-6
    rope: dict[str, Rope] = field(default_factory=dict)  # layer type -> Rope
    tie_word_embeddings: bool = True  # the head is the embedding table
    pad_token_id: int = 0
    bos_token_id: int = 2

    def is_full(self, layer: int) -> bool:
        return self.layer_types[layer] == FULL

    def head_dim_of(self, layer: int) -> int:
        return self.global_head_dim if self.is_full(layer) else self.head_dim

    def kv_heads_of(self, layer: int) -> int:
        """KV heads; the global number counts only together with ``attention_k_eq_v``."""
        if self.is_full(layer) and self.attention_k_eq_v and self.num_global_key_value_heads:
            return self.num_global_key_value_heads
        return self.num_key_value_heads

    def k_eq_v(self, layer: int) -> bool:
        return self.attention_k_eq_v and self.is_full(layer)

    @property
    def lacks_per_layer_embeddings(self) -> bool:
        """Whether some tokens have no per-layer embedding, though the model takes these."""
        few = self.vocab_size_per_layer_input < self.vocab_size
        return bool(self.hidden_size_per_layer_input) and few

    @property
    def first_kv_shared_layer(self) -> int:
        return self.num_hidden_layers - self.num_kv_shared_layers

    def kv_donor(self, layer: int) -> int:
        """The layer whose keys and values ``layer`` uses: itself, or for a KV-shared layer the
        last layer of its type that owns some."""
        if layer < self.first_kv_shared_layer:
            return layer
        kind = self.layer_types[layer]
        owners = self.layer_types[: self.first_kv_shared_layer]
        return len(owners) - 1 - owners[::-1].index(kind)

    def mlp_width(self, layer: int) -> int:
        wide = self.use_double_wide_mlp and layer >= self.first_kv_shared_layer
        return self.intermediate_size * (2 if wide else 1)


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower of E2B, E4B, 26B-A4B and 31B (``vision_config``)."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 16
    num_attention_heads: int = 12
    num_key_value_heads: int = 12
    head_dim: int = 64
    patch_size: int = 16
    pooling_kernel_size: int = 3
    position_embedding_size: int = 10_240
    default_output_length: int = 280
    use_clipped_linears: bool = False
    standardize: bool = False
    rms_norm_eps: float = 1e-6
    rope_theta: float = 100.0


@dataclass(frozen=True)
class AudioConfig:
    """The audio tower of E2B and E4B (``audio_config``)."""

    hidden_size: int = 1024
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    subsampling_conv_channels: tuple[int, int] = (128, 32)
    conv_kernel_size: int = 5
    residual_weight: float = 0.5
    attention_chunk_size: int = 12
    attention_context_left: int = 13
    attention_context_right: int = 0
    attention_logit_cap: float = 50.0
    use_clipped_linears: bool = True
    rms_norm_eps: float = 1e-6
    gradient_clipping: float = 1e10
    output_proj_dims: int = 1536


@dataclass(frozen=True)
class UnifiedVisionConfig:
    """The encoder-free image embedder of the 12B (``gemma4_unified_vision``).

    The projection to the text's width takes what the embedder gives, ``mm_embed_dim`` numbers.
    Files have the same number as ``output_proj_dims``, which is not read.
    """

    patch_size: int = 16
    pooling_kernel_size: int = 3
    mm_embed_dim: int = 3840
    mm_posemb_size: int = 1120
    num_soft_tokens: int = 280
    rms_norm_eps: float = 1e-6


@dataclass(frozen=True)
class UnifiedAudioConfig:
    """The encoder-free audio embedder of the 12B (``gemma4_unified_audio``): a soft token is
    ``audio_embed_dim`` samples as they are."""

    audio_embed_dim: int = 640
    rms_norm_eps: float = 1e-6


@dataclass(frozen=True)
class Gemma4Config:
    """A whole checkpoint's configuration.

    Attributes:
        raw: the file's JSON as it was read, for keys that this class has no field for.
        quantization: the block that says how the checkpoint is quantized, or None.
    """

    model_type: str
    text: TextConfig
    vision: VisionConfig | UnifiedVisionConfig | None = None
    audio: AudioConfig | UnifiedAudioConfig | None = None
    image_token_id: int = 258_880
    audio_token_id: int = 258_881
    video_token_id: int = 258_884
    boi_token_id: int = 255_999
    eoi_token_id: int = 258_882
    boa_token_id: int = 256_000
    eoa_token_id: int = 258_883
    eos_token_ids: tuple[int, ...] = (1, 106)
    quantization: dict[str, Any] | None = None
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def unified(self) -> bool:
        return self.model_type.startswith("gemma4_unified")

    @property
    def soft_token_ids(self) -> tuple[int, int, int]:
        """Ids of the image, video and audio placeholders that features take the place of."""
        return (self.image_token_id, self.video_token_id, self.audio_token_id)

    @classmethod
    def from_file(cls, path: str | Path) -> "Gemma4Config":
        """Read ``config.json`` (or the one in a folder). Raises ConfigError."""
        path = Path(path)
        if path.is_dir():
            path = path / "config.json"
        if path.exists() and not path.is_file():  # a pipe would be waited for without end
            raise ConfigError(f"{path} is no regular file")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"{path} does not exist; a Gemma 4 checkpoint has a config.json"
            ) from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise ConfigError(f"{path} cannot be read as JSON: {error}") from None
        return cls.from_dict(data, source=str(path))

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str = "config.json") -> "Gemma4Config":
        """Check and convert parsed JSON. ``source`` is named in errors. Raises ConfigError."""
        try:
            return cls._from_dict(data, source)
        except RecursionError:  # showing a value nested hundreds deep
            raise ConfigError(f"{source}: values are nested too deep") from None

    @classmethod
    def _from_dict(cls, data: dict[str, Any], source: str) -> "Gemma4Config":
        if not isinstance(data, dict):
            raise ConfigError(f"{source}: expected a JSON object, found {type(data).__name__}")
        kind = data.get("model_type")
        if kind not in _MODEL_TYPES:
            raise ConfigError(
                f"{source}: model_type is {kind!r}; this package reads "
                + ", ".join(map(repr, _MODEL_TYPES))
            )
        unified = kind.startswith("gemma4_unified")
        text_only = kind.endswith("_text")
        flat = "text_config" not in data and "num_hidden_layers" in data  # some exporters' way
        text = data if text_only or flat else _section(data, "text_config", source)
        # The outermost configuration decides whether the head is tied.
        tied = {"tie_word_embeddings": data.get("tie_word_embeddings")}
        text = _text_config(text | tied, source)
        vision = audio = None
        if not text_only:
            vision_class = UnifiedVisionConfig if unified else VisionConfig
            audio_class = UnifiedAudioConfig if unified else AudioConfig
            vision = _optional(vision_class, data, "vision_config", source)
            audio = _optional(audio_class, data, "audio_config", source)
        ids = {
            name: _integer(data, name, source, low=0)
            for name in (
                "image_token_id audio_token_id video_token_id boi_token_id eoi_token_id "
                "boa_token_id eoa_token_id"
            ).split()
            if data.get(name) is not None
        }
        if "eoa_token_id" not in ids and data.get("eoa_token_index") is not None:
            ids["eoa_token_id"] = _integer(data, "eoa_token_index", source, low=0)
        eos = data.get("eos_token_id", (1, 106))
        eos = (eos,) if isinstance(eos, int) else tuple(eos or (1, 106))
        if not all(isinstance(i, int) and i >= 0 for i in eos):
            raise ConfigError(f"{source}: eos_token_id holds {eos!r}, expected token ids")
        quantization = _quantization(data, source)
        return cls(
            model_type=kind,
            text=text,
            vision=vision,
            audio=audio,
            eos_token_ids=eos,
            quantization=quantization,
            raw=data,
            **ids,
        )


def _quantization(data: dict, source: str) -> dict | None:
    """The block that says how the weights are quantized; foreign methods that are not read are
    refused here, before any weights are fetched."""
    text = data.get("text_config")
    for section in (data, text if isinstance(text, dict) else {}):
        for key in ("quantization", "quantization_config", "compression_config"):
            found = section.get(key)
            if found is None:
                continue
            if not isinstance(found, dict):
                raise ConfigError(f"{source}: {key} is not a JSON object")
            method = found.get("quant_method")
            if method not in _QUANTIZATIONS:
                raise ConfigError(
                    f"{source}: quantized by {method!r}, which is not read here; use the 16-bit "
                    "checkpoint, one converted for MLX (mlx-community), or a quantization by "
                    "compressed-tensors or modelopt"
                )
            return found
    return None


def _section(data: dict, key: str, source: str) -> dict:
    value = data.get(key)
    if not isinstance(value, dict):
        raise ConfigError(f"{source}: {key} is missing or not a JSON object")
    return value


def _integer(data: dict, key: str, source: str, low: int = 1) -> int:
    value = data[key]
    high = _LARGEST.get(key.removeprefix("global_").removeprefix("moe_"), 1 << 31)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(
            f"{source}: {key} is {value!r}, expected a whole number from {low} to {high}"
        )
    return value


def _read_fields(cls: type, data: dict, source: str, skip: tuple[str, ...] = ()) -> dict:
    """Values of ``cls``'s fields found in ``data``, checked against the type of the default."""
    values = {}
    key, wanted = ("hidden_act", "silu") if cls is AudioConfig else ("hidden_activation", _GELU)
    if data.get(key) not in (None, wanted):
        raise ConfigError(f"{source}: {key} is {data[key]!r}; this package has Gemma 4's, {wanted}")
    for f in fields(cls):
        value = data.get(f.name)
        if value is None or f.name in skip:
            continue
        default = f.default
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise ConfigError(f"{source}: {f.name} is {value!r}, expected true or false")
        elif isinstance(default, int) or f.type in (int, int | None):
            low = 0 if f.name.startswith(("num_kv", "hidden_size_per", "vocab_size_per")) else 1
            low = 0 if f.name.endswith("_token_id") or "context" in f.name else low
            value = _integer(data, f.name, source, low=low)
        elif isinstance(default, float) or f.type == float | None:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"{source}: {f.name} is {value!r}, expected a number")
        elif isinstance(default, tuple):
            if not isinstance(value, list | tuple):
                raise ConfigError(f"{source}: {f.name} is {value!r}, expected a list")
            value = tuple(value)
        values[f.name] = value
    return values


def _optional(cls: type, data: dict, key: str, source: str):
    if data.get(key) is None:
        return None
    section = _section(data, key, source)
    values = _read_fields(cls, section, f"{source}, {key}")
    if cls is VisionConfig:
        theta = (section.get("rope_parameters") or {}).get("rope_theta")
        values["rope_theta"] = float(theta or section.get("rope_theta") or 100.0)
    if cls is UnifiedAudioConfig:
        values |= _samples_per_token(section, f"{source}, {key}")
    return cls(**values)


def _samples_per_token(section: dict, source: str) -> dict[str, int]:
    """The width of raw sound, which files name four times."""
    names = ("audio_embed_dim", "hidden_size", "output_proj_dims", "audio_samples_per_token")
    given = {n: _integer(section, n, source) for n in names if section.get(n) is not None}
    widths = set(given.values())
    if len(widths) > 1:
        raise ConfigError(
            f"{source}: {', '.join(f'{n} {v}' for n, v in given.items())}: a soft token is so many "
            "samples, and these must be equal"
        )
    return {"audio_embed_dim": widths.pop()} if widths else {}


def _text_config(data: dict, source: str) -> TextConfig:
    where = f"{source}, text_config" if str(data.get("model_type")).endswith("_text") else source
    values = _read_fields(TextConfig, data, where, skip=("rope",))
    layers = values.get("num_hidden_layers", TextConfig.num_hidden_layers)

    kinds = values.get("layer_types") or tuple(
        FULL if (i + 1) % 6 == 0 or i == layers - 1 else SLIDING for i in range(layers)
    )
    if len(kinds) != layers:
        raise ConfigError(
            f"{where}: layer_types lists {len(kinds)} layers, num_hidden_layers is {layers}"
        )
    if unknown := sorted({str(kind) for kind in kinds if kind not in (SLIDING, FULL)}):
        raise ConfigError(f"{where}: unknown layer_types {unknown}, expected {SLIDING} or {FULL}")
    values["layer_types"] = kinds

    if kinds[-1] != FULL:  # as transformers does
        log.warning("%s: the last layer attends to everything, whatever layer_types says", where)
        values["layer_types"] = kinds = (*kinds[:-1], FULL)
    _apply_per_layer_config(values, data.get("per_layer_config"), kinds, where)
    values["rope"] = _rope(data, where)
    config = TextConfig(**values)
    _check_text(config, where)
    return config


def _apply_per_layer_config(values: dict, per_layer: Any, kinds: tuple, where: str) -> None:
    """Fold transformers' per-layer overrides back into the two global fields."""
    if per_layer is None:
        return
    if not isinstance(per_layer, dict):
        raise ConfigError(f"{where}: per_layer_config is not a JSON object")
    names = {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}
    for key, overrides in per_layer.items():
        if not str(key).isdigit() or int(key) >= len(kinds) or not isinstance(overrides, dict):
            raise ConfigError(f"{where}: per_layer_config has no layer {key!r}")
        for name in overrides.keys() & names.keys():
            if kinds[int(key)] != FULL:
                raise ConfigError(f"{where}: per_layer_config changes sliding layer {key}")
            value = _integer(overrides, name, f"{where}, per_layer_config {key}")
            if values.setdefault(names[name], value) != value:
                raise ConfigError(f"{where}: per_layer_config disagrees on {name}")
    # What is not overridden equals the sliding layers' value.
    values.setdefault("global_head_dim", values.get("head_dim", TextConfig.head_dim))


def _rope(data: dict, where: str) -> dict[str, Rope]:
    parameters = data.get("rope_parameters") or {}
    if not isinstance(parameters, dict):
        raise ConfigError(f"{where}: rope_parameters is not a JSON object")
    defaults = {SLIDING: Rope(), FULL: Rope(theta=1e6, partial_rotary_factor=0.25)}
    ropes = {}
    for kind, default in defaults.items():
        given = parameters.get(kind)
        if given is None:
            ropes[kind] = default
            continue
        if not isinstance(given, dict):
            raise ConfigError(f"{where}: rope_parameters of {kind} is not a JSON object")
        rope_type = given.get("rope_type", "default")
        if rope_type not in ("default", "proportional"):
            raise ConfigError(
                f"{where}: rope_type {rope_type!r} of {kind}; expected default or proportional"
            )
        partial = given.get("partial_rotary_factor", 1.0) if rope_type == "proportional" else 1.0
        try:
            rope = Rope(
                theta=float(given.get("rope_theta", default.theta)),
                partial_rotary_factor=float(partial),
                factor=float(given.get("factor") or 1.0) if rope_type != "default" else 1.0,
            )
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(f"{where}: impossible rope_parameters for {kind}: {given}") from None
        if not (rope.theta > 1 and 0 < rope.partial_rotary_factor <= 1 and rope.factor > 0):
            raise ConfigError(f"{where}: impossible rope_parameters for {kind}: {given}")
        ropes[kind] = rope
    return ropes


def _check_text(config: TextConfig, where: str) -> None:
    for layer in range(config.num_hidden_layers):
        heads, kv_heads = config.num_attention_heads, config.kv_heads_of(layer)
        if heads % kv_heads:
            raise ConfigError(
                f"{where}: {heads} attention heads of layer {layer} "
                f"cannot share {kv_heads} KV heads"
            )
        if config.head_dim_of(layer) % 2:
            raise ConfigError(f"{where}: the head size of layer {layer} is odd; RoPE needs pairs")
    first = config.first_kv_shared_layer
    if first < 1:
        raise ConfigError(
            f"{where}: num_kv_shared_layers is {config.num_kv_shared_layers} of "
            f"{config.num_hidden_layers} layers; at least one must own keys and values"
        )
    missing = set(config.layer_types[first:]) - set(config.layer_types[:first])
    if missing:
        raise ConfigError(
            f"{where}: KV-shared layers of type {sorted(missing)} "
            "have no earlier layer to share with"
        )
    if config.enable_moe_block:
        for name in ("num_experts", "top_k_experts", "moe_intermediate_size"):
            if not getattr(config, name):
                raise ConfigError(f"{where}: enable_moe_block is true but {name} is not given")
        if config.top_k_experts > config.num_experts:
            raise ConfigError(
                f"{where}: top_k_experts is {config.top_k_experts} "
                f"of only {config.num_experts} experts"
            )
    if config.use_bidirectional_attention not in (None, "vision"):
        raise ConfigError(
            f"{where}: use_bidirectional_attention is {config.use_bidirectional_attention!r}; "
            'the chat models use null or "vision"'
        )
