"""``python -m gemma4_mlx``: the command line."""

import sys

from .cli import main

sys.exit(main())
