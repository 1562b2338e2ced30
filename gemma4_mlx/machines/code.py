"""Which version of this package runs, to the letter."""

import hashlib
from pathlib import Path


def code() -> str:
    """SHA-256 over the package's Python files: equal on machines that compute alike."""
    home, digest = Path(__file__).parent.parent, hashlib.sha256()
    for path in sorted(home.rglob("*.py")):
        digest.update(f"{path.relative_to(home)}\0".encode() + path.read_bytes())
    return digest.hexdigest()
