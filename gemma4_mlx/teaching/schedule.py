"""What is trained when: the stages of the teaching model's curriculum.

1. *pairs*: random key-value pairs and repeated lists, until looking up forms (it does so suddenly,
   and only when nothing else is in the way);
2. *needle*: the same circuit inside chat text;
3. *mix*: every skill, with pairs and needles rehearsed throughout; then *slower*, at half the rate:
   look-ups form at a high one, and everything else learns faster at a lower one;
4. *look*: the vision tower on its own (look.py); from here on it is frozen, and the mix goes on,
   *joined* to it;
5. *domains* and *finish*: the same with longer needles and more pictures, at a falling rate, while
   routing is encouraged to follow the domains;
6. *last*: some hundred steps of what was behind: tones above all, pictures, tools. The
   weights before and after it are averaged.
"""

from dataclasses import dataclass

PAIRS = {"pairs": 0.5, "repeat": 0.5}
NEEDLE = {"needle": 0.6, "pairs": 0.2, "repeat": 0.1, "chat": 0.1}
MIX = {
    "scene": 0.12, "grid": 0.15, "digit": 0.05, "tones": 0.05, "speech": 0.025, "sums": 0.06,
    "drill": 0.10, "two_step": 0.06, "code": 0.08, "tools": 0.12, "needle": 0.07, "count": 0.05,
    "sentence": 0.04, "chat": 0.03, "pairs": 0.005, "repeat": 0.005,
}  # fmt: skip
LONG = {  # more pictures as well: the last to be learned
    **MIX, "scene": 0.20, "grid": 0.20, "digit": 0.06, "drill": 0.08, "code": 0.05, "chat": 0.02,
    "sentence": 0.03, "needle": 0.04, "needle:700": 0.015, "needle:1300": 0.015,
    "needle:2600": 0.015, "needle:5000": 0.015,
}  # fmt: skip

LAST = {
    "tones": 0.28, "scene": 0.20, "digit": 0.10, "tools": 0.12, "two_step": 0.08, "sentence": 0.05,
    "needle": 0.04, "grid": 0.03, "count": 0.03, "drill": 0.03, "sums": 0.02, "code": 0.02,
    "chat": 0.02, "speech": 0.02,
}  # fmt: skip

# Mean tokens of a sample: the mixes above are shares of tokens, not of samples.
LENGTH = {
    "needle": 205, "needle:700": 720, "needle:1300": 1330, "needle:2600": 2640,
    "needle:5000": 5050, "tools": 198, "scene": 118, "grid": 141, "digit": 89, "tones": 58,
    "speech": 52, "sums": 67, "drill": 106, "two_step": 43, "code": 50, "count": 36,
    "sentence": 53, "chat": 69, "pairs": 43, "repeat": 34,
}  # fmt: skip
POOLS = {"tones": 4000, "speech": 2000}  # made once, drawn again and again


@dataclass
class Stage:
    name: str
    steps: int  # of a run of STEPS
    rate: tuple[float, float]  # of the optimizers' base rates: a straight line from, to
    mix: dict[str, float]
    balance: float = 0.02  # weight of the balancing loss
    domains: float = 0.0  # weight of the specialisation loss
    frozen: bool = False  # the vision tower stays as it is


STAGES = [
    Stage("pairs", 320, (1.0, 1.0), PAIRS),
    Stage("needle", 120, (1.0, 1.0), NEEDLE),
    Stage("mix", 732, (1.0, 1.0), MIX, balance=0.03),
    Stage("slower", 528, (0.5, 0.412), MIX, balance=0.03),
    Stage("look", 600, (0.7, 0.03), {}),
    Stage("joined", 400, (0.4, 0.3), MIX, balance=0.03, frozen=True),
    Stage("domains", 200, (0.3, 0.2585), LONG, balance=0.03, domains=0.05, frozen=True),
    Stage("finish", 800, (0.2585, 0.02), LONG, balance=0.03, domains=0.05, frozen=True),
    Stage("last", 350, (0.2, 0.02), LAST, balance=0.03, domains=0.05, frozen=True),
]
STEPS = sum(stage.steps for stage in STAGES)
WARM = 60  # steps


def stage_at(step: int, total: int = STEPS) -> tuple[Stage, float]:
    """The stage of a step and the rate there, in a run of `total` steps."""
    start, at = 0, step * STEPS / total
    for stage in STAGES:
        if at < start + stage.steps:
            break
        start += stage.steps
    first, last = stage.rate
    rate = first + (last - first) * (at - start) / stage.steps
    return stage, rate * min(1.0, (step + 1) / WARM)


def weights(stage: Stage) -> dict[str, float]:
    """Sample weights that give the stage's shares of tokens."""
    return {name: share / LENGTH[name] for name, share in stage.mix.items()}
