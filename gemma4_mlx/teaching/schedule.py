"""What is trained when: the stages of the teaching model's curriculum.

1. *pairs*: random key-value pairs and repeated lists, until looking up forms (it does so suddenly,
   and only when nothing else is in the way);
2. *needle*: the same circuit inside chat text;
3. *mix*: every skill, with pairs and needles rehearsed throughout;
4. *domains*: the same with longer needles, while routing is encouraged to follow the domains.
"""

from dataclasses import dataclass

PAIRS = {"pairs": 0.5, "repeat": 0.5}
NEEDLE = {"needle": 0.6, "pairs": 0.2, "repeat": 0.1, "chat": 0.1}
MIX = {
    "needle": 0.08, "tools": 0.16, "scene": 0.18, "digit": 0.06, "tones": 0.06, "speech": 0.02,
    "sums": 0.12, "two_step": 0.055, "code": 0.13, "count": 0.07, "sentence": 0.045, "chat": 0.03,
    "pairs": 0.005, "repeat": 0.005,
}  # fmt: skip
LONG = {**MIX, "needle": 0.05, "needle:700": 0.03, "needle:1300": 0.02, "needle:2600": 0.01}
# Mean tokens of a sample: the mixes above are shares of tokens, not of samples.
LENGTH = {
    "needle": 178, "needle:700": 720, "needle:1300": 1330, "needle:2600": 2640, "tools": 196,
    "scene": 115, "digit": 88, "tones": 50, "speech": 37, "sums": 89, "two_step": 43, "code": 52,
    "count": 37, "sentence": 47, "chat": 68, "pairs": 43, "repeat": 34,
}  # fmt: skip
POOLS = {"tones": 1500, "speech": 1500}  # made once, drawn again and again


@dataclass
class Stage:
    name: str
    until: float  # share of all steps
    mix: dict[str, float]
    balance: float = 0.02  # weight of the balancing loss
    domains: float = 0.0  # weight of the specialisation loss


STAGES = [
    Stage("pairs", 0.125, PAIRS),
    Stage("needle", 0.17, NEEDLE),
    Stage("mix", 0.60, MIX, balance=0.03),
    Stage("domains", 1.00, LONG, balance=0.03, domains=0.05),
]


def stage_at(step: int, total: int) -> Stage:
    return next(s for s in STAGES if step < s.until * total or s is STAGES[-1])


def weights(stage: Stage) -> dict[str, float]:
    """Sample weights that give the stage's shares of tokens."""
    return {name: share / LENGTH[name] for name, share in stage.mix.items()}


def rate(step: int, total: int) -> float:
    """Warm-up over 60 steps, flat, and a straight line down from 60% to 4% of the rate."""
    warm = min(1.0, (step + 1) / 60)
    done = step / total
    return warm * (1.0 if done < 0.6 else 1.0 - 0.96 * (done - 0.6) / 0.4)
