"""What ``python tests/mutations`` plants: one small change at a time, the same for a seed."""

import ast
import sys
import textwrap
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "mutations"))

from changes import mutations

PACKAGE = Path(__file__).parent.parent / "gemma4_mlx"
SOURCE = textwrap.dedent(
    '''
    """A module."""

    LIMIT = 5


    class Room:
        def held(self, x, limit=3):
            """At most so much."""
            if x < limit and self.open:
                self.note(x)
            rows = x[1:limit].astype(mx.float32)
            return any(r != "a" for r in rows), total(rows, axis=-1)
    '''
)


def test_each_kind_of_change_is_made_once():
    found = {m.name.removeprefix("a.py:Room.held: ") for m in mutations(SOURCE, "a.py")}
    assert found == {
        "3 -> 4",
        "3 -> 2",
        "x < limit and self.open -> (x < limit or self.open)",
        "x < limit -> (x <= limit)",
        "self.note(x) -> pass",
        "x[1:limit].astype(mx.float32) -> x[1:limit]",
        "1:limit -> 1:limit + 1",
        "1 -> 2",
        "mx.float32 -> mx.bfloat16",
        "any -> all",
        """r != "a" -> (r == 'a')""",
        "axis=-1 -> **{}",
        "-1 -> 1",
        "1 -> 2 (2)",
    }


def test_the_order_of_a_seed_does_not_depend_on_other_functions():
    longer = SOURCE + "\n\ndef more(x):\n    return x + 1\n"
    before, after = (
        sorted(mutations(source, "a.py"), key=lambda m: m.place(3)) for source in (SOURCE, longer)
    )
    assert [m.name for m in after if m.function != "more"] == [m.name for m in before]
    other = sorted(before, key=lambda m: m.place(4))
    assert other != before


@pytest.mark.parametrize("room", ["model", "tracing", "generation", "chat"])
def test_what_is_planted_is_python_and_in_one_function(room):
    everything = [
        (m, source)
        for path in sorted((PACKAGE / room).rglob("*.py"))
        for source in [path.read_text(encoding="utf-8")]
        for m in mutations(source, path.name)
    ]
    assert len({(m.name, m.file, source) for m, source in everything}) == len(everything) > 500
    for mutation, source in sorted(everything, key=lambda pair: pair[0].place(0))[:40]:
        planted = mutation.applied(source)
        assert planted != source
        compile(planted, mutation.file, "exec")
        changed = {
            old.name
            for old, new in zip(_functions(source), _functions(planted), strict=True)
            if ast.dump(old) != ast.dump(new)
        }
        assert mutation.function.split(".")[-1] in changed


def _functions(source: str) -> list:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
