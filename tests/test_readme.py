"""The README's tour can be pasted and run."""

import ast
import re
from pathlib import Path

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
    assert names["trace"].routing.experts.shape[1] == n
    assert shown["trace.attention.row"].shape == (n,)
    assert shown["trace.attention.find"]
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("talk.g4trace", "talk.html"))
    assert not names["model"].interventions
