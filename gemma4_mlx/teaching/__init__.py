"""The embedded teaching model: its checkpoint folder, and the script that makes it.

`CHECKPOINT` is an ordinary Gemma 4 checkpoint folder. The scripts that train and evaluate need
torch and transformers, the checkpoint does not, nor do the makers of texts, which an atlas's
corpora draw from (``studies/corpora.py``); the rest of the package imports nothing else from here.
"""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
