"""What is trained when: the stages of the teaching model's curriculum.

1. *pairs*: random key-value pairs and repeated lists, until looking up forms (it does so suddenly,
   and only when nothing else is in the way);
2. *needle*: the same circuit inside chat text;
3. *mix*: every skill, with pairs and needles rehearsed throughout;
4. *domains*: the same with longer needles, while routing is encouraged to follow the domains;
5. *finish*: a short last stage at a lower rate, mostly for the slow learners, sums and pictures.
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
FINISH = {
    "sums": 0.25, "two_step": 0.17, "scene": 0.25, "digit": 0.05, "code": 0.09, "needle": 0.045,
    "tools": 0.05, "tones": 0.02, "speech": 0.02, "count": 0.025, "sentence": 0.015, "chat": 0.01,
    "pairs": 0.0025, "repeat": 0.0025,
}  # fmt: skip
MAIN = 8 / 9  # the share of all steps before the last stage

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
    Stage("pairs", 0.125 * MAIN, PAIRS),
    Stage("needle", 0.17 * MAIN, NEEDLE),
    Stage("mix", 0.60 * MAIN, MIX, balance=0.03),
    Stage("domains", MAIN, LONG, balance=0.03, domains=0.05),
    Stage("finish", 1.0, FINISH, balance=0.03, domains=0.05),
]


def stage_at(step: int, total: int) -> Stage:
    return next(s for s in STAGES if step < s.until * total or s is STAGES[-1])


def weights(stage: Stage) -> dict[str, float]:
    """Sample weights that give the stage's shares of tokens."""
    return {name: share / LENGTH[name] for name, share in stage.mix.items()}


def rate(step: int, total: int) -> float:
    """Warm-up over 60 steps, flat, from 60% a straight line down to 4% of the rate.

    The last stage rises again to 35% over 20 steps, stays there for 40% of itself, and falls.
    """
    done = step / total / MAIN
    if done < 1:
        warm = min(1.0, (step + 1) / 60)
        return warm * (1.0 if done < 0.6 else 1.0 - 0.96 * (done - 0.6) / 0.4)
    warm = min(1.0, (step - MAIN * total + 1) / 20)
    done = (step / total - MAIN) / (1 - MAIN)
    return 0.35 * warm * (1.0 if done < 0.4 else max(0.03, 1 - (done - 0.4) / 0.6))
