"""What a verification found: one page as text, JSON or HTML."""

import html
import json
from dataclasses import asdict, dataclass, field
from importlib import resources

#: An error so many times what rounding explains is one that it does not explain.
LIMIT = 8.0


@dataclass(frozen=True)
class Finding:
    """One comparison.

    Attributes:
        part: what was done: "whole prompt", "next token", "weights", "questions", ...
        layer: of the text decoder; None where it concerns none.
        mechanism: what was compared, such as "queries", "attention", "mlp", "experts".
        error: relative to the numbers' own size (root mean square); None where it is no number.
        explained: the same, of what the type's rounding alone does.
        note: what is wrong, or was seen, in words.
        fine: whether rounding explains it.
    """

    part: str
    layer: int | None
    mechanism: str
    error: float | None = None
    explained: float | None = None
    note: str = ""
    fine: bool = False

    @property
    def place(self) -> str:
        return self.mechanism if self.layer is None else f"layer {self.layer}, {self.mechanism}"

    def __str__(self) -> str:
        text = f"{self.part}: {self.place}"
        if self.error is not None:
            text += f": error {self.error:.1e}, rounding explains {self.explained:.1e}"
        return text + (f" ({self.note})" if self.note else "")


@dataclass
class Report:
    """Everything that was compared. ``print(report)`` is the page; ``sound`` the verdict."""

    model: str
    machine: str
    facts: dict = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    questions: list[dict] = field(default_factory=list)
    perplexity: float | None = None
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def faults(self) -> list[Finding]:
        return [f for f in self.findings if not f.fine]

    @property
    def sound(self) -> bool:
        return not self.faults

    @property
    def verdict(self) -> str:
        if self.sound:
            return f"Sound: rounding explains all {len(self.findings)} comparisons."
        first = self.faults[0]
        return f"Not sound: {len(self.faults)} of {len(self.findings)} comparisons. First: {first}"

    def table(self) -> list[tuple[str, str, int, float | None, str]]:
        """Part, mechanism, comparisons, worst error over explained, worst place; in order."""
        groups: dict[tuple, list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault((finding.part, finding.mechanism), []).append(finding)
        rows = []
        for (part, mechanism), found in groups.items():
            worst = max(found, key=_badness)
            ratio = None if worst.error is None else _badness(worst)
            where = "" if worst.layer is None else f"layer {worst.layer}"
            rows.append((part, mechanism, len(found), ratio, where))
        return rows

    def __str__(self) -> str:
        lines = [f"gemma4-mlx verify: {self.model}", self.machine]
        lines += [f"{name}: {value}" for name, value in self.facts.items()]
        lines += ["", self.verdict]
        lines += [f"  FAULT {fault}" for fault in self.faults[:20]]
        if len(self.faults) > 20:
            lines.append(f"  ... and {len(self.faults) - 20} more")
        lines += ["", f"{'part':<16} {'mechanism':<22} {'compared':>8}  worst error / explained"]
        for part, mechanism, count, ratio, where in self.table():
            worst = "" if ratio is None else f"{ratio:.2f} {where}"
            lines.append(f"{part:<16} {mechanism:<22} {count:>8}  {worst}")
        if self.questions:
            lines += ["", "Questions, and the probability of the right answer's first token:"]
            lines += [
                f"  {q['probability']:.3f}  {q['question']} {q['answer']}" for q in self.questions
            ]
        if self.perplexity is not None:
            lines.append(f"Perplexity of the shipped text: {self.perplexity:.2f}")
        lines += [*self.notes, f"{self.seconds:.0f} s"]
        return "\n".join(lines)

    def to_json(self) -> str:
        whole = {"verdict": self.verdict, "sound": self.sound, **asdict(self)}
        return json.dumps(whole, indent=1, ensure_ascii=False, default=str)

    def to_html(self) -> str:
        """A page of its own, without scripts and without a network."""
        page = resources.files(__package__).joinpath("page.html").read_text("utf-8")
        rows = "".join(
            f"<tr><td>{html.escape(part)}<td>{html.escape(mechanism)}<td>{count}"
            f"<td>{'' if ratio is None else f'{ratio:.2f}'}<td>{where}"
            for part, mechanism, count, ratio, where in self.table()
        )
        asked = "".join(
            f"<tr><td>{html.escape(q['question'])}<td>{html.escape(q['answer'])}"
            f"<td>{q['probability']:.3f}"
            for q in self.questions
        )
        values = {
            "TITLE": self.model,
            "MACHINE": self.machine,
            "CLASS": "sound" if self.sound else "fault",
            "VERDICT": self.verdict,
            "FACTS": "\n".join(f"{k}: {v}" for k, v in self.facts.items()),
            "FAULTS": "\n".join(map(str, self.faults)),
            "NOTES": "\n".join(self.notes),
            "PERPLEXITY": "" if self.perplexity is None else f"{self.perplexity:.2f}",
        }
        for name, value in values.items():
            page = page.replace(f"@{name}@", html.escape(value))
        return page.replace("@ROWS@", rows).replace("@QUESTIONS@", asked)


def _badness(finding: Finding) -> float:
    if finding.error is None:
        return 0.0 if finding.fine else float("inf")
    return finding.error / finding.explained if finding.explained else float("inf")
