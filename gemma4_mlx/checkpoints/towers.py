"""Which towers a checkpoint really holds, whatever its ``config.json`` says.

Conversions drop towers and keep their configuration, or the other way round; leave the projector
behind that belonged to a tower; or put the towers into a file of their own that no index names.
"""

import logging
from dataclasses import replace
from pathlib import Path

from ..config import Gemma4Config
from ..errors import CheckpointError
from .files import Stored, confine, read_header
from .layout import model_name

log = logging.getLogger(__name__)

_PREFIXES = {
    "vision": ("vision_tower.", "vision_embedder.", "embed_vision."),
    "audio": ("audio_tower.", "embed_audio."),
}
_SENSE = {"vision": "see", "audio": "hear"}
#: Names that a file holding towers beside the shards goes by (mlx-optiq: ``optiq_vision``).
SIDE_FILES = ["*vision*.safetensors", "*audio*.safetensors", "*tower*.safetensors"]


def settle(
    folder: Path, config: Gemma4Config, stored: dict[str, Stored]
) -> tuple[Gemma4Config, dict[str, Stored]]:
    """The configuration of the towers that are here, and the tensors without leftovers of others.

    Towers that are configured and missing are looked for in the folder's other files.

    Raises CheckpointError for such a file that cannot be read.
    """
    used = {tensor.file for tensor in stored.values()}
    for kind in _PREFIXES:
        configured = getattr(config, kind) is not None
        if configured and not holds(kind, config, stored):
            stored = _beside(folder, kind, used) | stored
        held = holds(kind, config, stored)
        if configured and held:
            continue
        config = replace(config, **{kind: None})
        rest = {name: t for name, t in stored.items() if not _belongs(kind, name)}
        if configured:
            log.warning(
                "%s describes a tower for %s, but no weights of it are here: the model is loaded "
                "without and cannot %s. mlx-lm's conversions leave towers out, mlx-vlm's keep them",
                folder / "config.json",
                kind,
                _SENSE[kind],
            )
        elif held:
            log.warning(
                "%d %s tensors are left out: %s does not describe the tower they belong to",
                len(stored) - len(rest),
                kind,
                folder / "config.json",
            )
        stored = rest
    return config, stored


def holds(kind: str, config: Gemma4Config, names) -> bool:
    """Whether tensors of these names hold a tower, and not just the projector behind one.

    The unified 12B has no audio tower: its projector is all there is.
    """
    prefixes = _PREFIXES[kind]
    if not (config.unified and kind == "audio"):
        prefixes = tuple(p for p in prefixes if not p.startswith("embed_"))
    return any(model_name(name).startswith(prefixes) for name in names)


def _belongs(kind: str, name: str) -> bool:
    return model_name(name).startswith(_PREFIXES[kind])


def _beside(folder: Path, kind: str, used: set[Path]) -> dict[str, Stored]:
    """The tensors of a tower from files not ``used`` yet that hold nothing but towers."""
    found: dict[str, Stored] = {}
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")]):
        if file in used:
            continue
        confine(folder, file)
        tensors = list(read_header(file))
        if not all(any(_belongs(k, tensor.name) for k in _PREFIXES) for tensor in tensors):
            continue
        for tensor in tensors:
            if not _belongs(kind, tensor.name):
                continue
            if tensor.name in found:
                raise CheckpointError(f"{file} and {found[tensor.name].file}: {tensor.name} twice")
            found[tensor.name] = tensor
    if found:
        log.info("weights for %s come from %s", kind, next(iter(found.values())).file)
    return found
