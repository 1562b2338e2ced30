"""The encoder-free 12B: pixels and samples go to the text decoder almost as they are.

    picture -> patches of 48 x 48 px, one soft token each -> norm, linear, norm
      -> + an embedding of the column and one of the row -> norm -> (n, mm_embed_dim)
    sound   -> 640 samples (40 ms) each, raw: nothing is done here

What follows in both cases, the norm without weight and the projection to the text's width, is
the same projector as behind the towers of the other models (``gemma4.py``). Follows
``Gemma4UnifiedVisionEmbedder`` of transformers (``modeling_gemma4_unified.py``).
"""

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..config import UnifiedVisionConfig


class VisionEmbedder(nn.Module):
    """Call with ``patches`` (n, 3*s*s), pixel values in [0, 1], s = patch_size *
    pooling_kernel_size, and ``positions`` (n, 2), the (column, row) of each; gives
    (n, mm_embed_dim). Rows with position (-1, -1) are padding and dropped.

    The call raises ValueError for a picture with more columns or rows than positions are known.
    """

    def __init__(self, config: UnifiedVisionConfig):
        super().__init__()
        self.config = config
        pixels = 3 * (config.patch_size * config.pooling_kernel_size) ** 2
        D = config.mm_embed_dim
        self.patch_ln1 = nn.LayerNorm(pixels)  # eps 1e-5, torch's default, here and below
        self.patch_dense = nn.Linear(pixels, D)
        self.patch_ln2 = nn.LayerNorm(D)
        self.pos_embedding = mx.zeros((config.mm_posemb_size, 2, D))  # [:, 0] columns, [:, 1] rows
        self.pos_norm = nn.LayerNorm(D)

    def __call__(self, patches: mx.array, positions: np.ndarray | mx.array) -> mx.array:
        positions = np.asarray(positions)
        patches = mx.array(patches)
        real = (positions >= 0).all(axis=-1)  # (n,)
        if not real.all():
            keep = np.flatnonzero(real)
            patches, positions = patches[mx.array(keep)], positions[keep]
        if positions.max(initial=0) >= self.config.mm_posemb_size:
            raise ValueError(
                f"a picture {positions.max() + 1} patches long is larger than the model's "
                f"{self.config.mm_posemb_size} positions"
            )
        where = mx.array(positions)
        x = patches.astype(self.pos_embedding.dtype)
        x = self.patch_ln2(self.patch_dense(self.patch_ln1(x)))
        x = x + self.pos_embedding[where[:, 0], 0] + self.pos_embedding[where[:, 1], 1]
        return self.pos_norm(x)
