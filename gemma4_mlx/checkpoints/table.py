"""Every released model at every bit width and context, on one machine: a table of plans."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from .machine import GiB, Machine, this_machine
from .planner import Fit, fit, gib
from .released import RELEASED, released

CONTEXTS = (8_192, 32_768, 131_072, 262_144)


@dataclass(frozen=True)
class FitTable:
    """Models x contexts for one machine. ``fits[model, bits][context]`` is a Fit or None where
    the model does not take so long a context."""

    machine: Machine
    contexts: tuple[int, ...]
    fits: dict[tuple[str, int], dict[int, Fit | None]]

    def cells(self) -> list[tuple[str, str, list[tuple[str, bool]]]]:
        """(model, bits, [(GiB, does it fit), ...]) row by row."""
        rows = []
        for (name, bits), row in self.fits.items():
            cells = [
                ("–", False) if one is None else (f"{one.total / GiB:.1f}", one.fits)
                for one in row.values()
            ]
            rows.append((name, f"{bits} bit", cells))
        return rows

    def __str__(self) -> str:
        head = f"{'':<10}{'':<8}" + "".join(f"{_thousands(c):>10}" for c in self.contexts)
        lines = [self.title, head]
        for name, bits, cells in self.cells():
            shown = "".join(f"{size + (' *' if fine else '  '):>10}" for size, fine in cells)
            lines.append(f"{name:<10}{bits:<8}{shown}")
        return "\n".join([*lines, "* fits"])

    @property
    def title(self) -> str:
        may = f"a model may take {gib(self.machine.usable)} of {self.machine}"
        return f"GiB needed, by tokens of context; {may}"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{_thousands(c)}</th>" for c in self.contexts)
        body = ""
        for name, bits, cells in self.cells():
            shown = "".join(
                f"<td>{'✓ ' if fine else ''}{size}</td>" if fine else f"<td><s>{size}</s></td>"
                for size, fine in cells
            )
            body += f"<tr><td>{name}</td><td>{bits}</td>{shown}</tr>"
        title = escape(self.title)
        return f"<table><caption>{title}</caption><tr><th/><th/>{head}</tr>{body}</table>"


def fit_table(
    memory: float | None = None,
    *,
    models: str | Iterable[str] = tuple(model.name for model in RELEASED),
    bits: int | Sequence[int] = (4, 8, 16),
    contexts: int | Sequence[int] = CONTEXTS,
    kv_bits: int | None = None,
) -> FitTable:
    """Every released model at every bit width and context, for ``memory`` GiB or this machine.

    One model, width or context needs no list.

    Raises what :func:`fit` raises, except that a context longer than a model's is a None.
    """
    models = (models,) if isinstance(models, str) else models
    bits = (bits,) if isinstance(bits, int) else bits
    contexts = (contexts,) if isinstance(contexts, int) else contexts
    fits = {}
    for name in models:
        longest = released(name).config.text.max_position_embeddings
        for width in bits:
            fits[name, width] = {
                c: fit(name, width, c, kv_bits, memory) if c <= longest else None for c in contexts
            }
    machine = this_machine() if memory is None else Machine.mac(memory)
    return FitTable(machine, tuple(contexts), fits)


def _thousands(n: int) -> str:
    return f"{n // 1024}K" if n % 1024 == 0 else f"{n:,}"
