"""What a checkpoint holds, as its headers tell before a weight is read. Needs no MLX."""

from pathlib import Path
from typing import NamedTuple

from ..config import Gemma4Config
from .check import check
from .derived import Derived
from .files import Stored, read_folder
from .foreign import translate
from .foreign.gguf import GGUF
from .inventory import tensors
from .layout import Source, arrange
from .packing import Packing
from .towers import settle


class Plan(NamedTuple):
    """What a folder holds, read from headers alone and checked."""

    config: Gemma4Config  # without the towers that have no weights here
    stored: dict[str, Stored]  # by the file's names
    sources: dict[str, Source]  # by the model's names
    packings: dict[str, Packing]  # module -> how it is quantized
    gguf: GGUF | None = None  # the file, where it is one of llama.cpp's

    @property
    def decoded(self) -> bool:
        """Whether some weights were quantized in a way that MLX has no packing for."""
        derived = (source.stored for source in self.sources.values())
        return any(isinstance(tensor, Derived) and tensor.origin for tensor in derived)

    @property
    def foreign(self) -> bool:
        """Whether another ecosystem quantized the weights, or wrote the file."""
        packed = (self.sources[path + ".weight"].stored for path in self.packings)
        return bool(self.gguf) or self.decoded or any(isinstance(t, Derived) for t in packed)


def read_plan(folder: Path) -> Plan:
    """Everything about a checkpoint (a folder, or a GGUF file) but its weights.

    Raises CheckpointError, ConfigError.
    """
    gguf = GGUF(folder) if folder.is_file() else None
    if gguf:
        config, stored = gguf.config, gguf.stored
    else:
        config = Gemma4Config.from_file(folder)
        config, stored = settle(folder, config, read_folder(folder))
    wanted = tensors(config)
    shapes = {name: tensor.shape for name, tensor in wanted.items()}
    translated = gguf.tensors() if gguf else translate(stored, config, shapes)
    sources = arrange(translated, config, shapes)
    return Plan(config, stored, sources, check(str(folder), sources, wanted), gguf)
