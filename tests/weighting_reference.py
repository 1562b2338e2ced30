"""What transformers' eager attention makes of an additive mask for some heads, queries and keys.

``arrays(name)`` runs this file as a script, once, and loads what it wrote (:mod:`made_by`). Both
sides read :data:`CHANGES`, in which an entry is (layers, heads, queries, keys, factor) with None
for all; log(factor) is added to the mask.
"""

import sys

import numpy as np
from made_by import made_by

TOKENS = 70
#: Sliding, full with k = v, and layers that share another's keys; heads one, some and all; two
#: changes of one layer that overlap.
EVERYTHING = [
    ((0,), (1,), (20, 60), [18, 25, 30, 41], 0.0),
    ((2,), None, [40, 59, 66], (5, 30), 0.0),
    ((6,), (0, 3), None, (30, 40), 0.0),
    ((7,), (2,), None, (0, 8), 3.5),
    ((7, 5), (1, 2), (8, None), [3, 4, 60], 0.25),
]
E2B = [
    ((1, 3, 11), (0, 2), (30, None), (25, 40), 0.0),
    ((4, 9, 14), None, [50, 69], [0, 7, 48], 0.0),
    ((13,), (3,), None, (0, 60), 2.0),
]
#: With two pictures, at 10 ... 15 and 23 ... 28 of 45 tokens, which see themselves.
PICTURES = [
    ((1,), (0, 1), (10, 13), [11, 14, 15], 0.0),
    ((4,), None, (10, 16), (13, 16), 6.0),
    ((5,), (3,), (30, None), (23, 29), 0.0),
]
CHANGES = {"everything": EVERYTHING, "e2b": E2B, "dense31": PICTURES, "moe": PICTURES}


def within(positions, n):
    """Which of n positions are meant: bool (n,)."""
    found = np.zeros(n, bool)
    if isinstance(positions, list):
        found[positions] = True
    else:
        found[slice(*(positions or (0, None)))] = True
    return found


def arrays(name):
    """``ids`` (1, n), ``logits`` (1, n, V) and, of each changed layer, ``outputs_<layer>``
    (heads, n, D); of pictures also ``pixels`` and ``positions``."""
    return made_by(__file__, name)


def main(path, name):
    import torch
    from reference import Prompts, build, patch_positions
    from transformers.models.gemma4 import modeling_gemma4

    torch.set_num_threads(1)
    _, model = build(name)
    prompts, out, media = Prompts(seed=11), {}, {}
    sequence = prompts.text(TOKENS)
    if CHANGES[name] is PICTURES:
        sequence = [*prompts.text(9), *Prompts.picture(6), *prompts.text(6)]
        sequence += [*Prompts.picture(6), *prompts.text(15)]
        positions = torch.stack([patch_positions(6, 9, 54), patch_positions(9, 6, 54)])
        pixels = torch.rand(2, 54, 768, generator=prompts.g)
        media = dict(pixel_values=pixels, image_position_ids=positions)
        media["mm_token_type_ids"] = torch.tensor([Prompts.types(sequence)])
        out.update(pixels=pixels.numpy(), positions=positions.numpy())
    n, eager = len(sequence), modeling_gemma4.eager_attention_forward

    def masked(module, query, key, value, attention_mask, **options):
        layer, text = getattr(module, "layer_idx", None), query.shape[2] == n
        changed = [each for each in CHANGES[name] if text and layer in each[0]]
        if changed:
            attention_mask = attention_mask.expand(1, query.shape[1], n, n).clone()
        for _, heads, queries, keys, factor in changed:
            here = np.ix_(within(list(heads) if heads else None, query.shape[1]),
                          within(queries, n), within(keys, n))  # fmt: skip
            added = np.zeros(attention_mask.shape[1:], np.float32)
            added[here] = np.log(factor) if factor else -np.inf
            attention_mask += torch.tensor(added)
        output, weights = eager(module, query, key, value, attention_mask, **options)
        if changed:
            out[f"outputs_{layer}"] = output[0].transpose(0, 1).numpy()
        return output, weights

    modeling_gemma4.eager_attention_forward = masked
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([sequence]), use_cache=False, **media).logits
    np.savez_compressed(path, ids=[sequence], logits=logits.numpy(), **out)


if __name__ == "__main__":
    main(*sys.argv[1:])
