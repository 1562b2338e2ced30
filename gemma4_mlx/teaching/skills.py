"""The skills that are measured, their bars, and how an answer is judged.

Every sample is held out by construction: its combination (or its voice, or its image) never
occurs in training (render.held_out; `overlap` checks it by drawing training data).
"""

import ast
import json
import re
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


def value(sample: Sample, text: str) -> bool:
    """The note's value, and no other word after the key."""
    return text.rstrip(". ").endswith(" " + sample.check["value"])


def first_part(sample: Sample) -> Sample:
    """A tool sample cut after its call, so that the call is what is asked."""
    end = next(i for i, (_, learn) in enumerate(sample.parts) if learn)
    cut = Sample(sample.domain, sample.skill, sample.keys, sample.parts[: end + 1])
    cut.check = sample.check
    return cut


def call_only(rng):
    return first_part(data.make("tools", rng, "test"))


def _of(name: str, skills: tuple[str, ...] = (), **options) -> Callable:
    def draw(rng):
        while True:
            sample = data.make(name, rng, "test", **options)
            if not skills or sample.skill in skills:
                return sample

    return draw


@dataclass
class Skill:
    name: str
    draw: Callable
    bar: float | None = None
    judge: Callable = exact
    samples: int = 200
    notes: dict = field(default_factory=dict)


SKILLS = [
    Skill("small talk", _of("chat"), 0.95),
    Skill("counting", _of("count"), 0.90),
    Skill("sums", _of("sums"), 0.90, number),
    Skill("13 languages", _of("sentence"), 0.90),
    Skill("python", _of("code", ("python",)), 0.90, exact),
    Skill("json", _of("code", ("json",)), 0.90, exact),
    Skill("two-step, thinking", _of("two_step", thinking=True), 0.90, number),
    Skill("two-step, at once", _of("two_step", thinking=False), None, number),
    Skill("needle, short", _of("needle", tokens=100), 0.95, value),
    Skill("needle, 1K", _of("needle", tokens=1000, keys=5), 0.95, value, 60),
    Skill("tool call", call_only, 0.90),
    Skill("tool answer", _of("tools"), 0.90),
    *(
        Skill(f"picture {name}", _of("scene", (f"picture {name}",)), 0.90, samples=120)
        for name in ("describe", "shape", "colour", "count", "position")
    ),
    Skill("handwritten digit", _of("digit"), 0.85),
    Skill("tone count", _of("tones", ("tone count",)), 0.85, samples=100),
    Skill("pitch direction", _of("tones", ("pitch",)), 0.85, samples=100),
    Skill("spoken digit", _of("speech"), 0.85, samples=100),
]
LONG = [Skill("needle, 8K", _of("needle", tokens=8000, keys=5), 0.90, value, 20)]


def draw(skill: Skill, seed: int = 20261124, samples: int | None = None) -> list[Sample]:
    """The skill's evaluation set: fixed by the seed."""
    rng = np.random.default_rng((seed, len(skill.name), ord(skill.name[-1])))
    return [skill.draw(rng) for _ in range(samples or skill.samples)]


def overlap(samples: list[Sample], maker: str, n: int = 2000, seed: int = 7) -> tuple[int, int]:
    """(combinations asked by the test, how many of them occur in n training samples)."""
    rng = np.random.default_rng(seed)
    wanted = {sample.keys[-1] for sample in samples}
    seen = {key for _ in range(n) for key in data.make(maker, rng).keys}
    return len(wanted), len(wanted & seen)


