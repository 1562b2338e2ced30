"""Texts that ship with the package, for corpora that need no download.

``README.md`` beside this file says where they are from, and under which licence; ``__main__.py``
makes the files.
"""

import json
import lzma
from pathlib import Path

_HERE = Path(__file__).parent
DECLARATION, NOVEL = _HERE / "declaration.json.xz", _HERE / "novel.txt.xz"


def declaration() -> dict[str, dict]:
    """The Universal Declaration of Human Rights by language (two letters of ISO 639-1).

    ``name`` of the language in English, ``parts``: title and preamble, then its thirty articles.
    """
    return json.loads(lzma.decompress(DECLARATION.read_bytes()))


def novel() -> str:
    """Jane Austen's *Pride and Prejudice* (1813)."""
    return lzma.decompress(NOVEL.read_bytes()).decode("utf-8")
