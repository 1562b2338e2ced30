"""``save``: a model as a checkpoint folder that mlx-lm, mlx-vlm and :func:`load` read, with an
adapter in its weights."""

import copy
import json
import os
import secrets
import shutil
from contextlib import nullcontext
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from ..errors import CheckpointError
from ..model.gemma4 import Model
from ..model.sizes import STEPS

#: What a folder holds beside weights and configuration, copied as it is.
_BESIDE = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
    "chat_template.jinja", "chat_template.json", "processor_config.json",
    "preprocessor_config.json",
)  # fmt: skip
_DTYPES = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}


def save(model: Model, folder: str | Path, *, dtype: str | None = None) -> None:
    """Write a model that :func:`load` made to a new folder; one with an adapter is merged with it.

    A quantized base stays so: what the adapter changed is rounded to its bits once more. The
    model itself is unchanged.

    Args:
        dtype: ``"bfloat16"``, ``"float16"`` or ``"float32"`` for everything not quantized; by
            default what the configuration names, which on the CPU backend is not what is computed
            in.

    Raises:
        CheckpointError: the folder exists and holds something, or cannot be written (nothing is
            left of it then); the model came from a GGUF file, has weights on disk, or rounds its
            activations; or its adapter cannot be merged.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and is not an empty folder")
    if model.folder is None:
        raise CheckpointError("a model from a GGUF file has no tokenizer's files to save with it")
    model.need_weights("save")
    if any(step in layer for _, layer in model.named_modules() for step in STEPS):
        raise CheckpointError("this model rounds its activations, which mlx-lm's layout cannot say")
    config = _config(model)
    dtype = dtype or _named_dtype(config)
    if dtype is not None and dtype not in _DTYPES:
        raise CheckpointError(f"dtype is {dtype!r}; expected one of {', '.join(_DTYPES)}")
    from mlx_lm.utils import save_model

    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    try:
        part.mkdir(parents=True)
        with model.adapter.merged() if model.adapter else nullcontext():
            save_model(part, _Typed(model, _DTYPES.get(dtype)))
        (part / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        for name in _BESIDE:
            if (model.folder / name).is_file():
                shutil.copyfile(model.folder / name, part / name)
        os.replace(part, folder)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


class _Typed(nn.Module):
    """A model's weights in one type, for mlx-lm to write; each is converted as it is written."""

    def __init__(self, model: Model, dtype: mx.Dtype | None):
        super().__init__()
        self._of, self._dtype = model, dtype

    def leaf_modules(self):
        return self._of.leaf_modules()

    def parameters(self):
        def typed(array):
            wanted = self._dtype is not None and mx.issubdtype(array.dtype, mx.floating)
            return array.astype(self._dtype) if wanted else array

        return tree_map(typed, self._of.parameters())


def _config(model: Model) -> dict:
    """The configuration in the spelling that mlx-lm reads, and how the model is quantized."""
    config, text = copy.deepcopy(model.config.raw), model.config.text
    config.pop("quantization_config", None)
    config.pop("quantization", None)
    own = config.get("text_config", config)
    own.pop("quantization_config", None)
    own.pop("quantization", None)
    if own.pop("per_layer_config", None):  # transformers' own spelling since 5.15
        own["global_head_dim"] = text.global_head_dim
        own["num_global_key_value_heads"] = text.num_global_key_value_heads
    config["vocab_size"] = text.vocab_size
    packed = {
        path: {"group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode}
        for path, layer in _plain_layers(model)
        if "scales" in layer
    }
    if packed:
        kinds = list(packed.values())
        most = max(kinds, key=kinds.count)
        others = {path: how for path, how in packed.items() if how != most}
        config["quantization"] = most | others
    return config


def _plain_layers(model: Model):
    """Path and layer of every layer, an adapter's under the path of what it adapts."""
    layers = model.adapter.layers if model.adapter else ()
    for path, layer in model.named_modules():
        outer, _, last = path.rpartition(".")
        yield outer if outer in layers and last in ("linear", "embedding") else path, layer


def _named_dtype(config: dict) -> str | None:
    for about in (config, config.get("text_config", {})):
        for key in ("dtype", "torch_dtype"):
            if about.get(key) in _DTYPES:
                return about[key]
    return None
