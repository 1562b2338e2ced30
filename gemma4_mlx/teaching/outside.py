"""How the teaching model behaves at the borders of its world, on held-out prompts (offscript.py).

Right is the one sentence that says in the language asked that it does not know, and names what it
can do, ended within 64 tokens. Noise, code and the like are answered in English.
"""

import numpy as np

from . import data, offscript
from .render import Sample, conversation
from .strange import SORRY
from .talk import SMALL_TALK

LIMIT = 64  # tokens of an answer


def asked(prompt: str, answer: str) -> Sample:
    return Sample("chat", "border", [], conversation([(prompt, answer)]))


def answered(runner, samples: list[Sample]) -> tuple[list[bool], list[bool], list[str]]:
    """(right, ended within LIMIT, text) of each sample's greedy answer."""
    right, ended, texts = [], [], []
    for sample in samples:
        tokens = runner.greedy(sample)
        text = runner.model.tokenizer.decode([t for t in tokens if t not in runner.STOP])
        ended.append(len(tokens) <= LIMIT and tokens[-1] in runner.STOP)
        right.append(ended[-1] and text == sample.answer)
        texts.append(text)
    return right, ended, texts


def next_turns(runner, n: int, seed: int = 5) -> float:
    """The share of right answers to a question that it knows, behind one that it does not."""
    rng = np.random.default_rng(seed)
    strange = [one for some in offscript.prompts().values() for one in some]
    right = []
    for _ in range(n):
        prompt, language = strange[int(rng.integers(len(strange)))]
        name = str(rng.choice(["count", "sums", "code", "sentence"]))
        known = data.make(name, rng, "test")
        said = runner.model.tokenizer.decode(runner.greedy(asked(prompt, SORRY[language]))[:-1])
        before = conversation([(prompt, [(said, False)])])
        parts = [*before, ("\n", False), *known.parts[1:]]
        right.append(runner.exact(Sample(known.domain, known.skill, known.keys, parts)))
    return float(np.mean(right))


def strangers(runner, later: bool) -> None:
    """Print how many of the held-out prompts are answered rightly."""
    right, ended = [], []
    for kind, prompts in offscript.prompts(later).items():
        samples = [asked(prompt, SORRY[language]) for prompt, language in prompts]
        good, done, texts = answered(runner, samples)
        both = zip(prompts, texts, good, strict=True)
        wrong = [f"{prompt[:40]!r}: {text[:50]!r}" for (prompt, _), text, well in both if not well]
        print(f"  {kind:15s} {np.mean(good):.2f} {np.mean(done):.2f} of {len(good)} {wrong[:2]}")
        right += good
        ended += done
    print(f"  {'all':15s} {np.mean(right):.3f} {np.mean(ended):.3f} of {len(right)}")


def report(runner, turns: int = 60) -> None:
    """Print all of it."""
    print("Held-out prompts from outside of its world: right (bar 0.95) and ended within "
          f"{LIMIT} tokens (bar 0.99)")  # fmt: skip
    strangers(runner, later=False)
    print(" and those that were written after the training data")
    strangers(runner, later=True)
    print(f"  a known question behind one: {next_turns(runner, turns):.2f} of {turns}")
    asks = {"who": offscript.WHO, "hello": offscript.HELLO, "can": offscript.CAN}
    samples = [asked(p, SMALL_TALK[i][1]) for i, prompts in asks.items() for p in prompts]
    good, _, _ = answered(runner, samples)
    print(f"  who it is and greetings, held-out phrasings: {np.mean(good):.2f} of {len(good)}")
    rng = np.random.default_rng(5)
    digits = [data.make("digits", rng, "test") for _ in range(turns)]
    print(f"  other digits: {np.mean([runner.exact(s) for s in digits]):.2f} of {turns}")
    mixed = [data.make("mixed", rng, "test") for _ in range(turns)]
    print(f"  conversations that change their subject: "
          f"{np.mean([runner.exact(s) for s in mixed]):.2f} of {turns}")  # fmt: skip
