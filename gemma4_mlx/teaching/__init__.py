"""The embedded teaching model: its checkpoint folder, and the script that makes it.

`CHECKPOINT` is an ordinary Gemma 4 checkpoint folder. Nothing here is imported by the rest of
the package: the scripts need torch and transformers, the checkpoint does not.
"""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
