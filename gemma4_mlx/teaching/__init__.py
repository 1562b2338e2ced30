"""The embedded teaching model: its checkpoint folder, its atlas, and the scripts that make both.

`CHECKPOINT` is an ordinary Gemma 4 checkpoint folder. The scripts that train and evaluate need
torch and transformers, the checkpoint does not, nor do the makers of texts, which an atlas's
corpora draw from (``studies/corpora.py``); the rest of the package imports nothing else from here.
"""

from pathlib import Path

__all__ = ["CHECKPOINT", "atlas"]

CHECKPOINT = Path(__file__).parent / "checkpoint"
#: The file of :func:`atlas`, made by ``build_atlas.py``.
ATLAS = Path(__file__).parent / "atlas.g4atlas.xz"


def atlas():
    """An :class:`.Atlas` of the teaching model's experts over all that it was made for, at once.

    It is of the shipped weights, and needs no MLX.
    """
    import lzma

    from ..studies.data.atlas import Atlas
    from ..studies.data.file import read_atlas

    return Atlas(**read_atlas(ATLAS, lzma.decompress(ATLAS.read_bytes())))
