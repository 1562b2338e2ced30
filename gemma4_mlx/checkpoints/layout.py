"""From the tensor names of any Gemma 4 checkpoint to the model's own.

Four layouts are read; X is what follows, and the model's names are those of the third:

=======================  =====================================  ============================
layout                   text                                   towers
=======================  =====================================  ============================
Google, multimodal       ``model.language_model.X``             ``model.vision_tower.X`` ...
text only                ``model.X``, or bare ``X``
mlx-community            ``language_model.model.X``             ``vision_tower.X`` ...
transformers, 12B        as Google                              ``model.embed_vision.X``
=======================  =====================================  ============================
"""

import re
from collections import defaultdict
from dataclasses import dataclass

from ..config import Gemma4Config
from ..errors import CheckpointError
from .derived import Derived, stacked
from .files import Stored
from .inventory import TEXT

_TOWERS = ("vision_tower.", "audio_tower.", "vision_embedder.", "embed_vision.", "embed_audio.")
#: What some exporters store though every reader computes it.
_LEFTOVER = re.compile(
    r"rotary_emb\.|[._](inv_freq|inv_timescales|position_ids)$|\.(embed_scale|softcap)$"
    r"|\.(scalar_root_size|gradient_clipping|per_layer_(input|projection)_scale)$"
)
_HEAD = re.compile(r"(^|\.)lm_head\.(weight|scales|biases)$")
#: One expert's matrix, where a file holds them one by one.
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_RENAMED = (
    # transformers' in-memory names of the 12B's image embedder
    (re.compile(r"^embed_vision\.(patch_|pos_)"), r"vision_embedder.\1"),
    (re.compile(r"^embed_vision\.multimodal_embedder\."), "embed_vision."),
    # earlier conversions
    (re.compile(r"^(audio_tower\.)conformer\."), r"\1layers."),
    (re.compile(r"^(audio_tower\.subsample_conv_projection\.)conv_([01])\."), r"\1layer\2."),
    (re.compile(r"\.experts\.switch_mlp\."), ".experts.switch_glu."),
    # the stacked experts of the hub's layout have no ".weight"
    (re.compile(r"\.experts\.(gate_up|gate|up|down)_proj$"), r".experts.switch_glu.\1_proj.weight"),
    (re.compile(r"\.experts\.(gate_up|gate|up|down)_proj\."), r".experts.switch_glu.\1_proj."),
)
_UNUSED = re.compile(re.escape(TEXT) + r"layers\.(\d+)\.self_attn\.(k_proj|v_proj|k_norm|v_norm)\.")


@dataclass(frozen=True)
class Source:
    """Where one tensor of the model is found.

    Attributes:
        stored: the tensor in its file, or computed from such.
        half: 0 or 1 if it is the first or second half of the stored one along the axis before
            the last (experts: gate and up projection in one tensor, gate first).
        axes: the permutation from the stored axes to the model's, None where they agree.
    """

    stored: Stored | Derived
    half: int | None = None
    axes: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.stored.shape
        if self.axes is not None:
            return tuple(shape[axis] for axis in self.axes)
        if self.half is not None:
            return (*shape[:-2], shape[-2] // 2, shape[-1])
        return shape


def model_name(name: str) -> str:
    """The model's name for a checkpoint's tensor or module name.

    >>> model_name("model.language_model.layers.0.experts.down_proj")
    'language_model.model.layers.0.experts.switch_glu.down_proj.weight'
    """
    for prefix in ("model.language_model.", "language_model.model.", "language_model.", "model."):
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            break
    else:
        rest = name
    if rest.startswith("lm_head."):
        return "language_model." + rest
    if not rest.startswith(_TOWERS):
        rest = TEXT + rest
    for pattern, replacement in _RENAMED:
        rest = pattern.sub(replacement, rest)
    return rest


def arrange(
    stored: dict[str, Stored | Derived],
    config: Gemma4Config,
    shapes: dict[str, tuple[int, ...]],
) -> dict[str, Source]:
    """Name of each tensor in the model -> where it is, for everything a checkpoint stores.

    Dropped on the way: what exporters leave over, and the keys and values of KV-shared layers.
    Names that the model does not have stay in the result, for the caller to complain about.

    Args:
        stored: by the checkpoint's names.
        shapes: the model's own shapes, which tell a convolution kernel in torch's layout
            (out, in, kernel...) from one in MLX's (out, kernel..., in).

    Raises:
        CheckpointError: two stored tensors claim the same place, or an expert is missing.
    """
    first_shared = config.text.first_kv_shared_layer
    tied = config.text.tie_word_embeddings
    found: dict[str, Source] = {}

    def put(name: str, source: Source) -> None:
        if name in found:
            raise CheckpointError(
                f"{source.stored.file}: {found[name].stored.name} and {source.stored.name} "
                f"are both {name}"
            )
        found[name] = source

    for stored_name, tensor in _with_stacks(stored).items():
        if _LEFTOVER.search(stored_name) or (tied and _HEAD.search(stored_name)):
            continue  # a tied head is the embedding table again
        name = model_name(stored_name)
        unused = _UNUSED.match(name)
        if unused and int(unused[1]) >= first_shared:
            continue
        if ".switch_glu.gate_up_proj." in name and len(tensor.shape) == 3:
            for half, part in enumerate(("gate_proj", "up_proj")):
                put(name.replace("gate_up_proj", part), Source(tensor, half=half))
            continue
        put(name, Source(tensor, axes=_axes(tensor.shape, shapes.get(name))))
    return found


def _with_stacks(stored: dict[str, Stored | Derived]) -> dict[str, Stored | Derived]:
    """Experts stored one by one (``experts.17.up_proj``) as one tensor (``experts.up_proj``)."""
    found: dict[str, Stored | Derived] = {}
    experts: dict[str, dict[int, Stored | Derived]] = defaultdict(dict)
    for name, tensor in stored.items():
        if expert := _EXPERT.search(name):
            experts[_EXPERT.sub(".experts.", name)][int(expert[1])] = tensor
        else:
            found[name] = tensor
    for name, of in experts.items():
        if missing := sorted(set(range(max(of) + 1)) - of.keys()):
            raise CheckpointError(f"{name}: expert {missing[0]} of {max(of) + 1} is missing")
        if len({(tensor.shape, tensor.dtype) for tensor in of.values()}) > 1:
            raise CheckpointError(f"{name}: the experts' shapes or types differ")
        found[name] = stacked([of[expert] for expert in range(len(of))])
    return found


def _axes(shape: tuple[int, ...], wanted: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The permutation that makes a torch convolution kernel MLX's, None if it is none.

    A (D, 1, 5) depthwise or (128, 1, 3, 3) kernel becomes (D, 5, 1) or (128, 3, 3, 1).
    """
    if wanted is None or len(shape) not in (3, 4) or shape == wanted:
        return None
    axes = (0, *range(2, len(shape)), 1)
    return axes if tuple(shape[axis] for axis in axes) == wanted else None
