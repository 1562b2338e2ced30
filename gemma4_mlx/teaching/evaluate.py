"""Measure the shipped teaching model: `python -m gemma4_mlx.teaching.evaluate`.

Runs the checkpoint through gemma4_mlx (no torch) on held-out samples, and prints each skill's
accuracy beside its bar, then what is inside: how experts specialise, which heads find a needle,
and what ablating an expert does. Needs espeak-ng for the spoken digits and scikit-learn for
the handwritten ones.
"""

import argparse
import time
from collections.abc import Iterator

import mlx.core as mx

import gemma4_mlx as g4

from ..processing.audio import load_audio
from ..processing.image import load_image
from ..processing.inputs import encode_media, expand
from . import insides, needed, outside, skills, sounds
from .data import DOMAINS
from .render import Sample

LONGEST = 80  # tokens of an answer
CHUNK = 1024  # longer prompts are read in pieces


class Runner:
    """A model, and samples as its inputs."""

    STOP = frozenset({1, 50, 106})

    def __init__(self, model):
        self.model = model

    def inputs(self, sample: Sample):
        """(token ids, soft-token features or None) of everything before the last answer."""
        model = self.model
        ids = model.tokenizer.encode(sample.prompt, allow_special=True)
        media = [load_image(picture, model) for picture in sample.images]
        media += [load_audio(clip, model, rate=sounds.RATE) for clip in sample.audio]
        inputs = expand(ids, media, model.config)
        return list(inputs.tokens), inputs.features(encode_media(model, inputs))

    def answer_ids(self, sample: Sample) -> list[int]:
        text = [text for text, learn in sample.parts if learn][-1]
        return self.model.tokenizer.encode(text, allow_special=True)

    def logits(self, sample: Sample, answer=None) -> tuple[mx.array, list[int]]:
        """Logits (n, V) of the n tokens of an answer (the right one), and these tokens."""
        ids, features = self.inputs(sample)
        answer = self.answer_ids(sample) if answer is None else answer
        if features is None and len(ids) > CHUNK:
            cache = self.model.make_cache()
            for start in range(0, len(ids) - 1, CHUNK):
                chunk = ids[start : min(start + CHUNK, len(ids) - 1)]
                mx.eval(self.model.hidden(mx.array([chunk]), cache))
            hidden = self.model.hidden(mx.array([ids[-1:] + answer[:-1]]), cache)
            return self.model.head(hidden)[0], answer
        hidden = self.model.hidden(mx.array([ids + answer[:-1]]), features=features)
        return self.model.head(hidden[:, len(ids) - 1 :])[0], answer

    def exact(self, sample: Sample) -> bool:
        """Whether greedy decoding gives the answer's very tokens: each is the likeliest."""
        return self.gives(sample, self.answer_ids(sample))

    def loss(self, sample: Sample) -> float:
        """Mean cross-entropy of the answer's tokens."""
        logits, answer = self.logits(sample)
        each = mx.logsumexp(logits, -1) - logits[mx.arange(len(answer)), mx.array(answer)]
        return each.mean().item()

    def greedy(self, sample: Sample) -> list[int]:
        """The tokens of the greedy answer and the one that ends it."""
        if self.exact(sample):
            return self.answer_ids(sample)
        ids, features = self.inputs(sample)
        return list(self._tokens(ids, features, stop=True))

    def gives(self, sample: Sample, tokens: list[int]) -> bool:
        """Whether greedy decoding gives these tokens."""
        logits, _ = self.logits(sample, tokens)
        return bool((logits.argmax(-1) == mx.array(tokens)).all())

    def decode(self, sample: Sample) -> str:
        """Greedy decoding, token by token through the cache."""
        ids, features = self.inputs(sample)
        return self.model.tokenizer.decode(list(self._tokens(ids, features)))

    def _tokens(self, ids, features=None, stop=False) -> Iterator[int]:
        """Greedy tokens up to the end; with `stop` the one that ends it as well."""
        cache = self.model.make_cache()
        logits = self.model(mx.array([ids]), cache=cache, features=features)
        for _ in range(LONGEST):
            token = logits[0, -1].argmax().item()
            if stop or token not in self.STOP:
                yield token
            if token in self.STOP:
                return
            logits = self.model(mx.array([[token]]), cache=cache)


def score(runner: Runner, skill: skills.Skill, samples: list[Sample]) -> tuple[float, str]:
    """Share of right answers, and one wrong answer to look at."""
    right, wrong = 0, ""
    for sample in samples:
        # The same words can be spelled with other tokens.
        if runner.exact(sample) or skill.judge(sample, text := runner.decode(sample)):
            right += 1
        else:
            wrong = f"{text!r} for {sample.answer!r}"
    return right / len(samples), wrong


def speed(runner: Runner) -> tuple[float, float]:
    """(seconds to load the model again, tokens per second of decoding)."""
    start = time.perf_counter()
    mx.eval(g4.load().parameters())
    seconds = time.perf_counter() - start
    ids = runner.model.tokenizer.encode("<bos><|turn>user\nCount from 1 to 40.<turn|>\n"
                                        "<|turn>model\n", allow_special=True)  # fmt: skip
    list(runner._tokens(ids))
    start = time.perf_counter()
    n = len(list(runner._tokens(ids)))
    return seconds, n / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=200, help="at most so many for each skill")
    parser.add_argument("--only", default="", help="skills whose name contains this")
    parser.add_argument("--no-insides", action="store_true")
    parser.add_argument("--model", default=None, help="another checkpoint folder")
    arguments = parser.parse_args()

    model = g4.load(arguments.model)
    runner = Runner(model)
    print("| skill | held-out accuracy | bar | samples | combinations also in training |")
    print("|---|---|---|---|---|")
    for skill in [*skills.SKILLS, *skills.LONG]:
        if arguments.only not in skill.name:
            continue
        samples = skills.draw(skill, samples=min(arguments.samples, skill.samples))
        asked, shared = skills.overlap(samples, skill)
        share, wrong = score(runner, skill, samples)
        bar = f"{skill.bar:.2f}" if skill.bar else "-"
        met = "" if not skill.bar else (" met" if share >= skill.bar else " **missed**")
        print(f"| {skill.name} | {share:.3f} | {bar}{met} | {len(samples)} | {shared} of {asked} |"
              + (f" <!-- {wrong} -->" if wrong and share < 0.5 else ""), flush=True)  # fmt: skip
    if not arguments.no_insides and not arguments.only:
        print()
        samples = {domain: insides.samples_of(domain, 30) for domain in DOMAINS}
        first, chosen = insides.routing(runner, samples)
        insides.report(runner, samples, first, chosen)
        needed.report(runner, samples, chosen)
        outside.report(runner)
        seconds, rate = speed(runner)
        print(f"\nLoads in {seconds:.2f} s, decodes {rate:.0f} tokens/s on {mx.default_device()}.")


if __name__ == "__main__":
    main()
