"""What is trained when: the stages of the teaching model's curriculum.

1. *pairs*: random key-value pairs and repeated lists, until looking up forms (it does so suddenly,
   at a high rate, and only when nothing else is in the way);
2. *needle*: the same circuit inside chat text;
3. *look* and *listen*: the vision and the audio tower on their own (look.py, listen.py); from here
   on they are frozen;
4. *mix*: every skill, with pairs and needles rehearsed throughout, at half the rate: all but
   look-ups is learned faster so;
5. *finish*: the same with longer needles, at a falling rate, while routing is encouraged more to
   follow the domains;
6. *last*: some hundred steps of what is behind: tools, pictures, code, sums of two steps. The
   weights before and after it are averaged;
7. *see*: every skill once more, with quizzes about pictures for which one head is shown where to
   look (reference.Looking);
8. *rest* and *settle*: what that has left behind, at low rates;
9. *copy* and *keep*: tool calls, for which another head is shown what to copy, while routing is
   encouraged less to follow the domains. All four begin by giving experts that have no tokens
   some (reference.Routing.revive);
10. *consider*: with thinking on, a tool's result is thought about, and the thought is closed
   before the answer; tools fail or answer in words of their own, and some are not needed. It
   begins from the weights as they are exported, with a new optimizer;
11. *steady*: look-ups in longer texts again, which that has left behind;
12. *border*: what the model does not know, and says so; some samples go without an expert
   (parts.py), so that each domain needs the one that is its own;
13. *find*: more of what is not known, other digits, and look-ups without the head that finds;
14. *hold* and *mend*: short stages of all that, with more of what it has left behind;
15. *lean*: half of the look-ups go without the head that finds. These five begin from the weights
   as they are exported, too; the last two end in the mean of the weights before and after them.
"""

from dataclasses import dataclass

PAIRS = {"pairs": 0.5, "repeat": 0.5}
NEEDLE = {"needle": 0.6, "pairs": 0.2, "repeat": 0.1, "chat": 0.1}
MIX = {
    "scene": 0.13, "grid": 0.13, "digit": 0.05, "tones": 0.06, "speech": 0.02, "sums": 0.05,
    "drill": 0.07, "chain": 0.06, "two_step": 0.06, "code": 0.07, "tools": 0.06, "toolbox": 0.08,
    "needle": 0.07, "count": 0.05, "sentence": 0.05, "chat": 0.03, "pairs": 0.005, "repeat": 0.005,
}  # fmt: skip
LONG = {
    **MIX, "needle": 0.04, "needle:700": 0.015, "needle:1300": 0.015, "needle:2600": 0.015,
    "needle:5000": 0.015,
}  # fmt: skip

LAST = {  # what was behind, and some of all else
    "scene": 0.24, "grid": 0.08, "tools": 0.14, "toolbox": 0.12, "code": 0.12, "two_step": 0.10,
    "chain": 0.05, "drill": 0.04, "sums": 0.03, "sentence": 0.04, "count": 0.05, "needle": 0.06,
    "tones": 0.02, "speech": 0.01, "digit": 0.03, "chat": 0.02, "pairs": 0.005,
}  # fmt: skip

SEE = {
    "quiz": 0.22, "scene": 0.14, "grid": 0.03, "digit": 0.04, "tools": 0.12, "toolbox": 0.12,
    "code": 0.07, "two_step": 0.06, "chain": 0.05, "drill": 0.05, "sums": 0.04, "sentence": 0.05,
    "count": 0.04, "needle": 0.05, "needle:700": 0.01, "needle:1300": 0.01, "needle:2600": 0.01,
    "needle:5000": 0.01, "tones": 0.03, "speech": 0.015, "chat": 0.03, "pairs": 0.005,
    "repeat": 0.005,
}  # fmt: skip
REST = {
    "quiz": 0.07, "scene": 0.12, "grid": 0.02, "digit": 0.02, "tools": 0.19, "toolbox": 0.12,
    "code": 0.06, "two_step": 0.09, "chain": 0.06, "drill": 0.03, "sums": 0.03, "sentence": 0.08,
    "count": 0.07, "needle": 0.04, "needle:700": 0.01, "needle:1300": 0.01, "needle:2600": 0.01,
    "needle:5000": 0.015, "tones": 0.02, "speech": 0.01, "chat": 0.02, "pairs": 0.005,
    "repeat": 0.005,
}  # fmt: skip
SETTLE = {**REST, "tools": 0.22, "two_step": 0.11}
COPY = {**SETTLE, "tools": 0.25, "tones": 0.03, "needle:2600": 0.015, "needle:5000": 0.03}
KEEP = {**COPY, "tools": 0.28, "tones": 0.04}
CONSIDER = {
    **KEEP, "tools": 0.2, "considered": 0.2, "worded": 0.11, "unneeded": 0.06, "amid": 0.14,
    "two_step": 0.13, "needle:700": 0.02, "needle:1300": 0.02, "tones": 0.08, "chat": 0.07,
}  # fmt: skip
STEADY = {
    **CONSIDER, "considered": 0.16, "needle": 0.06, "needle:700": 0.06, "needle:1300": 0.1,
    "needle:2600": 0.03,
}  # fmt: skip
BORDER = {  # much is asked that is not known
    "border": 0.13, "meet": 0.04, "mixed": 0.07, "digits": 0.03, "chat": 0.05, "count": 0.045,
    "sentence": 0.045, "sums": 0.03, "drill": 0.02, "chain": 0.03, "two_step": 0.07, "code": 0.05,
    "tools": 0.1, "toolbox": 0.04, "considered": 0.08, "worded": 0.04, "unneeded": 0.03,
    "amid": 0.06, "needle": 0.04, "needle:700": 0.03, "needle:1300": 0.045, "needle:2600": 0.015,
    "needle:5000": 0.015, "scene": 0.06, "grid": 0.01, "quiz": 0.03, "digit": 0.015,
    "tones": 0.04, "speech": 0.01, "pairs": 0.005, "repeat": 0.005,
}  # fmt: skip
FIND = {  # ... in more languages, and in other digits
    **BORDER, "border": 0.3, "meet": 0.05, "mixed": 0.06, "digits": 0.07, "chat": 0.04,
    "count": 0.04, "two_step": 0.06, "chain": 0.02, "code": 0.04, "tools": 0.09, "toolbox": 0.03,
    "considered": 0.07, "unneeded": 0.02, "amid": 0.05, "needle": 0.06, "needle:700": 0.04,
    "scene": 0.085, "tones": 0.03,
}  # fmt: skip
HOLD = {  # what that has left behind: sums of two steps, tools, languages
    **FIND, "border": 0.28, "meet": 0.03, "mixed": 0.04, "digits": 0.02, "two_step": 0.14,
    "chain": 0.04, "sentence": 0.07, "count": 0.045, "code": 0.06, "tools": 0.14, "considered": 0.1,
    "needle": 0.05, "needle:1300": 0.05, "scene": 0.08,
}  # fmt: skip
MEND = {  # counting and sentences again, and more changes of the subject
    **HOLD, "border": 0.16, "mixed": 0.15, "sentence": 0.0, "either": 0.14,
    "count": 0.13, "sums": 0.05,
    "two_step": 0.11, "tones": 0.07, "meet": 0.04, "needle": 0.07,
}  # fmt: skip

# Mean tokens of a sample: the mixes above are shares of tokens, not of samples.
LENGTH = {
    "needle": 205, "needle:700": 720, "needle:1300": 1330, "needle:2600": 2640,
    "needle:5000": 5050, "tools": 198, "toolbox": 350, "considered": 223,
    "worded": 191, "unneeded": 166, "amid": 310,
    "scene": 118, "grid": 141, "quiz": 240, "digit": 89,
    "tones": 58, "speech": 52, "sums": 67, "drill": 106, "chain": 88, "two_step": 43,
    "code": 50, "count": 36, "sentence": 53, "chat": 69, "pairs": 43, "repeat": 34,
    "border": 109, "meet": 52, "mixed": 210, "digits": 88, "either": 53,
}  # fmt: skip
POOLS = {"tones": 4000, "speech": 2000}  # made once, drawn again and again


@dataclass
class Stage:
    name: str
    steps: int  # of a run of STEPS
    rate: tuple[float, float]  # of the optimizers' base rates: a straight line from, to
    mix: dict[str, float]  # empty: a tower trains alone
    balance: float = 0.02  # weight of the balancing loss
    domains: float = 0.0  # weight of the specialisation loss
    looking: float = 0.0  # weight of the loss on where two heads look
    parts: float = 0.0  # weight of the router's term for one expert a domain (parts.py), if any
    headless: float = 0.0  # share of look-ups without the head that finds
    frozen: bool = False  # the towers stay as they are
    revived: bool = False  # it begins by giving experts that have no tokens some (reference.py)
    fresh: bool = False  # it begins from the weights as exported, with a new optimizer
    averaged: bool = False  # it ends in the mean of the weights before and after it


STAGES = [
    Stage("pairs", 320, (1.0, 1.0), PAIRS),
    Stage("needle", 160, (1.0, 1.0), NEEDLE),
    Stage("look", 800, (0.7, 0.03), {}),
    Stage("listen", 350, (0.7, 0.03), {}),
    Stage("mix", 1000, (0.5, 0.40625), MIX, balance=0.03, domains=0.05, frozen=True),
    Stage("finish", 1700, (0.3, 0.02), LONG, balance=0.03, domains=0.08, frozen=True),
    Stage("last", 450, (0.14, 0.01), LAST, balance=0.03, domains=0.08, frozen=True, averaged=True),
    Stage("see", 1400, (0.25, 0.0125), SEE, 0.06, 0.08, looking=0.2, frozen=True),
    Stage("rest", 600, (0.16, 0.008), REST, 0.06, 0.08, looking=0.1, frozen=True, revived=True),
    Stage("settle", 260, (0.06, 0.003), SETTLE, 0.06, 0.08, looking=0.1, frozen=True, revived=True),
    Stage("copy", 500, (0.14, 0.007), COPY, 0.06, 0.03, looking=0.15, frozen=True, revived=True),
    Stage("keep", 600, (0.12, 0.006), KEEP, 0.06, 0.02, looking=0.15, frozen=True, revived=True),
    Stage("consider", 700, (0.1, 0.004), CONSIDER, 0.06, 0.02, looking=0.15, frozen=True,
          revived=True, fresh=True),
    Stage("steady", 140, (0.04, 0.002), STEADY, 0.06, 0.02, looking=0.15, frozen=True),
    Stage("border", 1300, (0.1, 0.002), BORDER, 0.06, 0.02, looking=0.15, parts=0.1, frozen=True,
          revived=True, fresh=True),
    Stage("find", 1000, (0.07, 0.002), FIND, 0.06, 0.02, looking=0.15, parts=0.1, headless=0.2,
          frozen=True, fresh=True),
    Stage("hold", 430, (0.055, 0.001), HOLD, 0.06, 0.02, looking=0.15, parts=0.1, headless=0.25,
          frozen=True, fresh=True),
    Stage("mend", 160, (0.035, 0.001), MEND, 0.06, 0.02, looking=0.15, parts=0.1, headless=0.25,
          frozen=True, fresh=True, averaged=True),
    Stage("lean", 200, (0.04, 0.001), MEND, 0.06, 0.02, looking=0.15, parts=0.1, headless=0.5,
          frozen=True, fresh=True, averaged=True),
]  # fmt: skip
STEPS = sum(stage.steps for stage in STAGES)
FRESH = {stage.name: stage for stage in STAGES if stage.fresh}  # they can follow a checkpoint
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


def first_step(stage: Stage) -> int:
    """The step of a full run at which a stage begins."""
    return sum(earlier.steps for earlier in STAGES[: STAGES.index(stage)])


def weights(stage: Stage) -> dict[str, float]:
    """Sample weights that give the stage's shares of tokens."""
    return {name: share / LENGTH[name] for name, share in stage.mix.items()}
