"""The README's tour can be pasted and run."""

import ast
import re
from pathlib import Path

import pytest

from gemma4_mlx.checkpoints import fit_table
from gemma4_mlx.checkpoints.machine import Machine
from gemma4_mlx.errors import ChatError

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_tour_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"<!-- tour -->\s*```python\n(.*?)```\s*<!-- /tour -->", README, re.S)
    names, shown = {}, {}
    for statement in ast.parse(code.group(1)).body:
        text = ast.unparse(statement)
        try:
            if isinstance(statement, ast.Expr):
                shown[text.split("(")[0]] = eval(text, names)
            else:
                exec(text, names)
        except ChatError:  # an answer longer than its limit is no object, as the README says
            if ".parsed" not in text:
                raise
    n = len(names["trace"])
    assert shown["trace.attention.row"].shape == (n,)
    assert shown["trace.routing.experts.shape"][1] == n and names["heads"]
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("talk.g4trace", "talk.html"))
    assert not names["model"].interventions


@pytest.fixture(scope="module")
def table():
    return fit_table(memory=64, contexts=[1024 * k for k in (8, 32, 128, 256)]).fits


@pytest.mark.parametrize("name", ["E2B", "E4B", "12B", "26B-A4B", "31B"])
def test_what_runs_on_which_mac_is_what_fit_says(name, table):
    cells = re.search(rf"^\| {name} \|(.*)\|$", README, re.M).group(1).split("|")
    *needed, smallest = (cell.strip() for cell in cells)
    row = table[name.lower(), 4]
    for k, shown in zip((8, 32, 128, 256), needed):
        fit = row.get(1024 * k)
        assert (fit is None) == (shown == "–")
        assert fit is None or abs(fit.total / 2**30 - float(shown)) < 0.25
    total = row[8192].total
    enough = next(gib for gib in (8, 16, 24, 36, 48, 64) if Machine.mac(gib).usable >= total)
    assert smallest.startswith(f"{enough} GB")
