"""The skills that are measured, their bars, and how an answer is judged.

Every sample is held out by construction: its combination (or its voice, or its image) never
occurs in training (render.held_out; `overlap` checks it by drawing training data).
"""

import ast
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from . import data
from .render import Sample


def exact(sample: Sample, text: str) -> bool:
    return text.strip() == sample.answer.strip()


def number(sample: Sample, text: str) -> bool:
    """The last number of the answer, after any thinking, is the right one."""
    found = re.findall(r"-?\d+", text.split("<channel|>")[-1])
    return bool(found) and found[-1] == sample.check["number"]


def valid(sample: Sample, text: str) -> bool:
    """Parses, and begins as asked."""
    try:
        json.loads(text) if sample.skill == "json" else ast.parse(text)
    except (ValueError, SyntaxError):
        return False
    return bool(text.strip())


def last_word(sample: Sample, text: str) -> bool:
    """Ends in the right word: things are counted one by one, and the count comes last."""
    return text.rstrip(". ").split(" ")[-1] == sample.answer.rstrip(". ").split(" ")[-1]


def value(sample: Sample, text: str) -> bool:
    """The note's value, and no other word after the key."""
    return text.rstrip(". ").endswith(" " + sample.check["value"])


def after_thought(sample: Sample, text: str) -> bool:
    """The thought is closed, and the answer behind it is the right one."""
    _, closed, answer = text.rpartition("<channel|>")
    return bool(closed) and answer == sample.answer.rpartition("<channel|>")[-1]


def after_any_thought(sample: Sample, text: str) -> bool:
    """The answer is the right one; where a thought was open, it is closed."""
    return after_thought(sample, text) if "<channel|>" in sample.answer else exact(sample, text)


def uncalled(sample: Sample, text: str) -> bool:
    """No tool is called: none is needed."""
    return "<|tool_call>" not in text


def first_part(sample: Sample) -> Sample:
    """A tool sample cut after its call, so that the call is what is asked."""
    end = next(i for i, (_, learn) in enumerate(sample.parts) if learn)
    cut = Sample(sample.domain, sample.skill, sample.keys, sample.parts[: end + 1])
    cut.check = sample.check
    return cut


@dataclass
class Skill:
    name: str
    maker: str  # of data.MAKERS
    bar: float | None = None
    judge: Callable = exact
    samples: int = 200
    only: str = ""  # keep samples of this kind
    call: bool = False  # cut a tool sample after its call
    options: dict = field(default_factory=dict)  # for the maker

    def draw(self, rng) -> Sample:
        """One held-out sample."""
        while True:
            sample = data.make(self.maker, rng, "test", **self.options)
            if self.only in ("", sample.skill):
                return first_part(sample) if self.call else sample


SKILLS = [
    Skill("small talk", "chat", 0.95),
    Skill("counting", "count", 0.90),
    Skill("sums", "sums", 0.90, number),
    Skill("13 languages", "sentence", 0.90),
    Skill("python", "code", 0.90, only="python"),
    Skill("json", "code", 0.90, only="json"),
    Skill("two-step, thinking", "two_step", 0.90, number, options={"thinking": True}),
    Skill("two-step, at once", "two_step", None, number, options={"thinking": False}),
    Skill("needle, short", "needle", 0.95, value, options={"tokens": 100}),
    Skill("needle, 1K", "needle", 0.95, value, options={"tokens": 1000, "keys": 5}),
    Skill("tool call", "tools", 0.90, call=True),
    Skill("tool answer", "tools", 0.90),
    Skill("tool answer, thinking", "considered", 0.90, after_thought),
    Skill("tool's own words or error", "worded", None, after_any_thought),
    Skill("no tool needed", "unneeded", None, uncalled),
    *(  # one question: an earlier answer would give the later one away
        Skill(
            f"picture {name}",
            "scene",
            0.90,
            last_word if name == "count" else exact,
            samples=120,
            only=f"picture {name}",
            options={"questions": 1},
        )
        for name in ("describe", "shape", "colour", "count", "position")
    ),
    Skill("handwritten digit", "digit", 0.85),
    Skill("tone count", "tones", 0.85, samples=100, only="tone count"),
    Skill("pitch direction", "tones", 0.85, samples=100, only="pitch"),
    Skill("spoken digit", "speech", 0.85, samples=100),
]
LONG = [Skill("needle, 8K", "needle", 0.90, value, 20, options={"tokens": 8000, "keys": 5})]


def draw(skill: Skill, seed: int = 20261124, samples: int | None = None) -> list[Sample]:
    """The skill's evaluation set: fixed by the seed."""
    rng = np.random.default_rng((seed, zlib.crc32(skill.name.encode())))
    return [skill.draw(rng) for _ in range(samples or skill.samples)]


def questions() -> list[Sample]:
    """What a sound model answers (``gemma4-mlx verify``): one held-out sample of each skill of
    text alone that has a bar."""
    media = ("scene", "digit", "tones", "speech")
    return [draw(s, samples=1)[0] for s in SKILLS if s.bar and s.maker not in media]


def overlap(samples: list[Sample], skill: Skill, n: int = 300, seed: int = 7) -> tuple[int, int]:
    """(combinations the test asks for, how many of them n fresh training samples contain).

    Zero by construction; this looks.
    """
    rng = np.random.default_rng(seed)
    wanted = {sample.keys[-1] for sample in samples}
    seen = {key for _ in range(n) for key in data.make(skill.maker, rng).keys}
    return len(wanted), len(wanted & seen)
