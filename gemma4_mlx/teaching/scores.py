"""Quick held-out scores in the reference's class, during training.

    python -m gemma4_mlx.teaching.scores --work build/teaching

Greedy decoding gives the expected answer exactly when every token of it is the most likely one
after the tokens before it, so one forward pass per batch decides "exact" without decoding.
"""

import argparse
from pathlib import Path

from .. import _blas

if __name__ == "__main__":
    _blas.restart_without_openblas()

import numpy as np
import torch

from . import data, reference, skills
from .train import get_tokenizer


def last_part_only(encoded: data.Encoded) -> data.Encoded:
    """Keep the learn marks of the last learned part alone."""
    learn = np.array(encoded.learn)
    end = np.flatnonzero(learn)[-1]
    start = end
    while start > 0 and learn[start - 1]:
        start -= 1
    learn[:start] = False
    return data.Encoded(encoded.ids, learn.tolist(), encoded.domain, encoded.images, encoded.audio)


@torch.no_grad()
def exact(model, encoded: list[data.Encoded], budget: int = 6000) -> list[bool]:
    """Whether greedy decoding gives each sample's last learned part."""
    right = np.ones(len(encoded), bool)
    for batch in data.batches([last_part_only(each) for each in encoded], budget):
        where, tokens = reference.learned(batch)
        wrong = reference.logits_at(model, batch, where).argmax(-1) != tokens
        right[batch["sample"][where][wrong].numpy()] = False
    return right.tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("build/teaching"))
    parser.add_argument("--samples", type=int, default=60)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = reference.build()
    state = torch.load(arguments.work / "state.pt", weights_only=True)
    # As it will be shipped: rounded to bfloat16.
    model.load_state_dict({k: v.to(torch.bfloat16) for k, v in state["model"].items()})
    encode = data.Encoder(get_tokenizer(arguments.work))
    print(f"step {state['step']}, {state['seconds'] / 60:.0f} min")
    for skill in skills.SKILLS:
        if arguments.only in skill.name:
            samples = skills.draw(skill, samples=min(arguments.samples, skill.samples))
            right = exact(model, [encode(sample) for sample in samples])
            print(f"{skill.name:22s} {np.mean(right):.2f}  bar {skill.bar}", flush=True)


if __name__ == "__main__":
    main()
