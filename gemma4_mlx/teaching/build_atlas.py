"""Make the atlas of the teaching model that ships beside its weights, whenever these change.

python -m gemma4_mlx.teaching.build_atlas
"""

import argparse
import lzma
import tempfile
from pathlib import Path

import gemma4_mlx as g4

from ..atomic import write
from ..studies import Atlas, corpora
from . import ATLAS, CHECKPOINT

#: Documents of each of the eight domains.
DOCUMENTS = 24


def build(progress: bool = True) -> Atlas:
    """The atlas of the shipped weights; the same every time on one machine."""
    model = g4.load(str(CHECKPOINT))  # whatever GEMMA4_MODEL says
    model.source = "teaching model"  # and not where it lies on this machine
    lessons = corpora.teaching(model, DOCUMENTS)
    return g4.atlas(model, lessons, tokens=10**5, progress=progress)


def pack(atlas: Atlas) -> bytes:
    """An atlas's file, compressed."""
    with tempfile.TemporaryDirectory() as folder:
        return lzma.compress(atlas.save(Path(folder)).read_bytes(), preset=9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    atlas = build()
    packed = pack(atlas)
    write(ATLAS, packed)
    print(f"{atlas}\n{len(packed):,} bytes written to {ATLAS}")


if __name__ == "__main__":
    main()
