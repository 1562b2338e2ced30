"""GGUF, llama.cpp's file format: one file with configuration, tokenizer, template and weights.

This module knows what Gemma 4's names and numbers in it mean. What MLX can hold bit by bit stays
packed: a block of 32 weights of Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0, or an eighth of a block of Q4_K
and Q5_K, is a group of MLX's affine mode with a scale and a bias of its own. The other types are
decoded, by llama.cpp's own package ``gguf``.
Source of names and keys: llama.cpp, ``conversion/gemma.py`` and ``src/models/gemma4.cpp``.
"""

import logging
import re
from dataclasses import replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ...config import FULL, SLIDING, Gemma4Config
from ...errors import CheckpointError, ConfigError
from ..derived import Derived, floats, rows
from ..files import Stored
from ..layout import TEXT
from .blocks import KEPT, packed
from .gguf_header import read_header

log = logging.getLogger(__name__)

_ARCHITECTURE = "gemma4"
_PLAIN = {"F32": 4, "F16": 2, "BF16": 2}
_WHOLE = {
    "token_embd.weight": "embed_tokens.weight",
    "output_norm.weight": "norm.weight",
    "per_layer_token_embd.weight": "embed_tokens_per_layer.weight",
    "per_layer_model_proj.weight": "per_layer_model_projection.weight",
    "per_layer_proj_norm.weight": "per_layer_projection_norm.weight",
}
_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
    "post_ffw_norm_1.weight": "post_feedforward_layernorm_1.weight",
    "pre_ffw_norm_2.weight": "pre_feedforward_layernorm_2.weight",
    "post_ffw_norm_2.weight": "post_feedforward_layernorm_2.weight",
    "ffn_gate_inp.weight": "router.proj.weight",
    "ffn_gate_inp.scale": "router.scale",
    "ffn_down_exps.scale": "router.per_expert_scale",
    "ffn_gate_up_exps.weight": "experts.gate_up_proj.weight",
    "ffn_gate_exps.weight": "experts.gate_proj.weight",
    "ffn_up_exps.weight": "experts.up_proj.weight",
    "ffn_down_exps.weight": "experts.down_proj.weight",
    "inp_gate.weight": "per_layer_input_gate.weight",
    "proj.weight": "per_layer_projection.weight",
    "post_norm.weight": "post_per_layer_input_norm.weight",
    "layer_output_scale.weight": "layer_scalar",
}
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


class GGUF:
    """A GGUF model, its headers read. Raises CheckpointError, ConfigError for another model's."""

    def __init__(self, file: Path):
        self.file = file
        headers = [read_header(shard) for shard in _shards(file)]
        self._settings = headers[0][0]
        kind = self._settings.get("general.architecture")
        if kind != _ARCHITECTURE:
            towers = "; it holds towers alone, give the model's file" if kind == "clip" else ""
            raise ConfigError(
                f"{file}: its architecture is {kind!r}; this package reads {_ARCHITECTURE}{towers}"
            )
        self.stored = {name: t for _, tensors in headers for name, t in tensors.items()}

    def _get(self, key: str, kind: type, default: Any) -> Any:
        """A setting of the type it must have."""
        value = self._settings.get(key, default)
        if value is not default and not isinstance(value, kind):
            raise ConfigError(f"{self.file}: {key} is {str(value)[:80]!r}, no {kind.__name__}")
        return value

    def _setting(self, key: str, default: Any = None) -> Any:
        value = self._settings.get(f"{_ARCHITECTURE}.{key}", default)
        if value is None:
            raise ConfigError(f"{self.file}: {_ARCHITECTURE}.{key} is missing")
        # Stored in 32 bits: the shortest number that rounds to it is the one meant (1e-06).
        return float(str(np.float32(value))) if isinstance(value, float) else value

    @cached_property
    def config(self) -> Gemma4Config:
        """The configuration, as ``config.json`` would say it. Raises ConfigError."""
        try:
            config = self._config()
        except (TypeError, IndexError) as error:  # a text where a number belongs
            raise ConfigError(f"{self.file}: its settings cannot be read: {error}") from None
        return Gemma4Config.from_dict(config, source=str(self.file))

    def _config(self) -> dict[str, Any]:
        layers = self._setting("block_count")
        if not isinstance(layers, int) or not 0 < layers <= 1024:
            raise ConfigError(f"{self.file}: block_count is {layers!r}")
        shared = self._setting("attention.shared_kv_layers", 0)
        sliding = self._each("attention.sliding_window_pattern", layers)
        kv_heads = self._each("attention.head_count_kv", layers)
        widths = self._each("feed_forward_length", layers)
        full = [i for i in range(layers) if not sliding[i]]
        owners = [i for i in full if i < layers - shared]
        first = next((i for i in range(layers) if sliding[i]), 0)
        config = {
            "model_type": "gemma4_text",
            "vocab_size": self._shape("token_embd.weight")[0],
            "hidden_size": self._setting("embedding_length"),
            "intermediate_size": widths[0],
            "use_double_wide_mlp": bool(shared) and widths[-1] == 2 * widths[0],
            "num_hidden_layers": layers,
            "layer_types": [SLIDING if s else FULL for s in sliding],
            "num_attention_heads": self._setting("attention.head_count"),
            "num_key_value_heads": kv_heads[first],
            "num_global_key_value_heads": kv_heads[full[0]] if full else None,
            "attention_k_eq_v": any(f"blk.{i}.attn_v.weight" not in self.stored for i in owners),
            "head_dim": self._setting("attention.key_length_swa"),
            "global_head_dim": self._setting("attention.key_length"),
            "num_kv_shared_layers": shared,
            "sliding_window": self._setting("attention.sliding_window"),
            "max_position_embeddings": self._setting("context_length"),
            "rms_norm_eps": self._setting("attention.layer_norm_rms_epsilon"),
            "final_logit_softcapping": self._setting("final_logit_softcapping", 0.0) or None,
            "rope_parameters": self._rope(),
            "tie_word_embeddings": "output.weight" not in self.stored,
            "bos_token_id": self._get("tokenizer.ggml.bos_token_id", int, 2),
            "pad_token_id": self._get("tokenizer.ggml.padding_token_id", int, 0),
            "eos_token_id": self.eos_token_ids,
        }
        if per_layer := self._setting("embedding_length_per_layer_input", 0):
            config["hidden_size_per_layer_input"] = per_layer
            config["vocab_size_per_layer_input"] = self._shape("per_layer_token_embd.weight")[0]
        if experts := self._setting("expert_count", 0):
            config |= {
                "enable_moe_block": True,
                "num_experts": experts,
                "top_k_experts": self._setting("expert_used_count"),
                "moe_intermediate_size": self._setting("expert_feed_forward_length"),
            }
        return config

    def _each(self, key: str, layers: int) -> list:
        """A setting that is one number for all layers, or a list of one for each."""
        value = self._setting(key)
        values = value if isinstance(value, list) else [value] * layers
        if key.endswith("_pattern") and not isinstance(value, list):
            raise ConfigError(f"{self.file}: {key} is {value!r}, expected a list")
        if len(values) != layers:
            raise ConfigError(f"{self.file}: {key} lists {len(values)} of {layers} layers")
        return values

    def _shape(self, name: str) -> tuple[int, ...]:
        if name not in self.stored:
            raise CheckpointError(f"{self.file}: {name} is missing")
        return self.stored[name].shape

    def _rope(self) -> dict:
        """Angles that stand still in full layers are stored as divided by a huge number."""
        self._shape("rope_freqs.weight")
        factors = floats(self.stored["rope_freqs.weight"])
        turning = float(np.mean(factors == 1))
        if not turning or ((factors != 1) & (factors < 1e10)).any():
            raise ConfigError(f"{self.file}: rope_freqs are not those of proportional rope")
        full = {"rope_type": "proportional", "partial_rotary_factor": turning}
        full["rope_theta"] = self._setting("rope.freq_base")
        return {FULL: full, SLIDING: {"rope_theta": self._setting("rope.freq_base_swa", 1e4)}}

    def tensors(self) -> dict[str, Derived]:
        """Every tensor under the model's name, in MLX's packing where there is one.

        Raises CheckpointError for a type that is not known.
        """
        found: dict[str, Derived] = {}
        decoded: dict[str, int] = {}
        for tensor in self.stored.values():
            name = _name(tensor.name)
            if name is None:
                continue
            path, _, part = name.rpartition(".")
            if tensor.dtype in _PLAIN:
                found[name] = _plain(tensor)
            elif tensor.dtype in KEPT and part == "weight":
                found |= {f"{path}.{p}": t for p, t in packed(tensor).items()}
            else:
                found[name] = _decoded(tensor)
                decoded[tensor.dtype] = decoded.get(tensor.dtype, 0) + prod(tensor.shape)
        for kind, count in decoded.items():
            log.warning(
                "%s: %.1f million weights in %s have no packing in MLX and are decoded; with bits= "
                "they are packed again while they are read",
                self.file,
                count / 1e6,
                kind,
            )
        return found

    @property
    def eos_token_ids(self) -> list[int]:
        """Ids that end an answer: the file's, and Gemma's end of a turn."""
        names = (f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot"))
        ids = [self._get(name, int, None) for name in names]
        if "<turn|>" in self._tokens:
            ids.append(self._tokens.index("<turn|>"))
        return sorted({i for i in ids if i is not None}) or [1, 106]

    @cached_property
    def _tokens(self) -> list[str]:
        return self._get("tokenizer.ggml.tokens", list, [])

    def tokenizer(self):
        """The tokenizer, None if the file has none. Raises CheckpointError for a broken one."""
        merges = self._get("tokenizer.ggml.merges", list, None)
        if not self._tokens or merges is None:
            return None
        kinds = self._get("tokenizer.ggml.token_type", list, None) or [1] * len(self._tokens)
        return _tokenizer(self.file, self._tokens, kinds, merges, self.eos_token_ids)

    @property
    def chat_template(self) -> str | None:
        return self._get("tokenizer.chat_template", str, None)


def _shards(file: Path) -> list[Path]:
    """The file, or all files of a model that was split, in order."""
    split = _SHARD.fullmatch(file.name)
    if not split:
        return [file]
    base, _, count = split.groups()
    shards = [file.with_name(f"{base}-{i + 1:05d}-of-{count}.gguf") for i in range(int(count))]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise CheckpointError(f"{file.parent}: {missing[0]} is missing")
    return shards


def _name(name: str) -> str | None:
    """llama.cpp's name -> the model's; None for what the model computes itself."""
    if name == "rope_freqs.weight":
        return None
    if name == "output.weight":
        return "language_model.lm_head.weight"
    if name in _WHOLE:
        return TEXT + _WHOLE[name]
    block = _BLOCK.fullmatch(name)
    if block and block[2] in _LAYER:
        return f"{TEXT}layers.{block[1]}.{_LAYER[block[2]]}"
    return name  # the check of names complains


def _plain(tensor: Stored) -> Derived:
    return Derived(
        tensor.name, tensor.file, tensor.dtype, tensor.shape, lambda *r: rows(tensor, *r)
    )


def _decoded(tensor: Stored) -> Derived:
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError:
        raise CheckpointError(
            f"{tensor.file} holds weights in {tensor.dtype}, which needs a further package: "
            "pip install 'gemma4-mlx[gguf]'"
        ) from None
    kind, size = GGMLQuantizationType[tensor.dtype], tensor.nbytes // prod(tensor.shape[:-1])
    raw = replace(tensor, dtype="U8", shape=(*tensor.shape[:-1], size))

    def make(start: int, stop: int) -> np.ndarray:
        return quants.dequantize(raw.rows(start, stop), kind).astype(np.float32)

    return Derived(tensor.name, tensor.file, "BF16", tensor.shape, make, True, tensor.dtype)


def _tokenizer(file: Path, tokens: list[str], kinds: list[int], merges: list[str], eos: list[int]):
    """The tokenizer of a vocabulary: byte pairs over words that begin with their space.

    Of tokens that are not split (type 3: control, 4: defined by the user), those that stand for
    something beside their text are special.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    from ...processing.tokenizer import Tokenizer as Wrapped

    if len(set(tokens)) != len(tokens) or len(kinds) != len(tokens):
        raise CheckpointError(f"{file}: the tokens are not distinct, or their types not as many")
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    try:
        backend = Tokenizer(
            models.BPE(vocabulary, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        )
    except Exception as error:  # whatever the Rust side raises
        raise CheckpointError(f"{file}: its tokenizer cannot be built: {error}") from None
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    for token, kind in zip(tokens, kinds):
        if kind not in (3, 4):
            continue
        special = kind == 3 or token.startswith("<|") or token.endswith("|>")
        added = AddedToken(token, special=special, normalized=False)
        backend.add_special_tokens([added]) if special else backend.add_tokens([added])
    return Wrapped(backend, eos_token_ids=eos)
