"""What the sizes of caches and of attention's blocks depend on, the score of a hidden key, and
tensors that only some layers have. Needs no MLX, so that the planner counts with the model's own
numbers on any machine.
"""

from ..errors import GenerationError

STEP = 256  # tokens by which a cache's buffer grows during decoding
SLACK = 64  # tokens a sliding layer can step back without a snapshot
#: Attention scores are materialised where MLX has no fused kernel (head size 512); queries are
#: split so that two blocks of scores, one computed and one waiting, stay below this.
SCORE_BYTES = 128 * 2**20
#: Where NumPy attends (MLX's CPU backend), only a block's mask is materialised.
CPU_MASK_BYTES = 16 * 2**20
#: Rows of a sliding layer's block, unless its window is longer.
LEAST_ROWS = 128
#: Score of a hidden key. Not -inf: HIDDEN - HIDDEN must be 0, not NaN, in a row whose first block
#: is all hidden; what it then sums is wiped out by the first key it sees.
HIDDEN = -1e30
#: Step sizes beside the weight of a layer that rounds its input and output (``ranges.py``).
STEPS = ("input_activation_scale", "output_activation_scale")


def checked_kv_bits(kv_bits: int | None) -> int | None:
    """Bits of full-attention keys and values, if they can be. Raises GenerationError."""
    if kv_bits not in (None, 8, 4):
        raise GenerationError(
            f"kv_bits must be 8 or 4, or None for keys and values as computed, not {kv_bits!r}."
        )
    return kv_bits


def block_rows(m: int, row_bytes: int, in_numpy: bool) -> int:
    """How many queries attend at once to m keys if the scores of one take ``row_bytes`` (all
    heads); ``in_numpy``: where scores stay in the processor's cache (:func:`.ops.in_numpy`)."""
    return max(1, CPU_MASK_BYTES // m if in_numpy else SCORE_BYTES // (2 * row_bytes))
