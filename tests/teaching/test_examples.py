"""Every example that is printed anywhere is answered rightly.

The examples are read from where they are printed: the README, the model's card, the page for
teachers, the notebooks' code, the Prompt widget's suggestions and the command line's help. What is
asked there beside a picture, a sound, a tool or a schema is checked where it stands.
"""

import ast
import json
import re
from pathlib import Path

import pytest

import gemma4_mlx as g4
from gemma4_mlx import cli
from gemma4_mlx.teaching.words import LANGUAGES
from gemma4_mlx.widgets.turns import TEACHING_SUGGESTIONS

ROOT = Path(__file__).parents[2]
CARD = ROOT / "gemma4_mlx" / "teaching" / "README.md"
TEACHERS = ROOT / "notebooks" / "teachers.md"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OTHERWISE = {"images", "audio", "videos", "schema", "thinking"}


def table(path):
    """Rows of the tables of what to ask: what is asked, and the answer."""
    rows = re.findall(r"(?m)^\|(?:[^|]*\|)? `([^`]+)` \| `([^`]+)` \|$", path.read_text("utf-8"))
    return [(asked, said.replace("\\n", "\n")) for asked, said in rows]


def code_of(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def asked_in(code):
    """What plain chats are asked in a piece of Python, and lists that are called ``sheet``."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "sheet":
            yield from ast.literal_eval(node.value)
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        plain = not OTHERWISE & {keyword.arg for keyword in node.keywords}
        if node.func.attr in ("say", "send", "stream") and plain and node.args:
            said = getattr(node.args[0], "value", None)
            if isinstance(said, str):
                yield said


def printed():
    """Where an example is printed, and what is asked there."""
    readme = (ROOT / "README.md").read_text("utf-8")
    found = [("README", text) for text in re.findall(r'gemma4-mlx chat "([^"]+)"', readme)]
    for block in re.findall(r"```python\n(.*?)```", readme, re.S):
        found += [("README", asked) for asked in asked_in(block)]
    found += [("card", asked) for asked, _ in table(CARD)]
    found += [("teachers", asked) for asked, _ in table(TEACHERS)]
    found += [("Prompt", asked) for asked in TEACHING_SUGGESTIONS]
    helps = [cli._parser().format_help()]
    helps += [p.format_help() for p in cli._parser()._subparsers._group_actions[0].choices.values()]
    found += [("help", text) for page in helps for text in re.findall(r'chat "([^"]+)"', page)]
    for path in NOTEBOOKS:
        found += [(path.stem, asked) for code in code_of(path) for asked in asked_in(code)]
    return sorted(set(found))


PRINTED = printed()
ASKED = sorted({asked for _, asked in PRINTED})
SAID = dict(table(CARD) + table(TEACHERS))


def counted(asked):
    """Ways to say the numbers asked for; none if no counting is asked for."""
    found = re.search(r"[Cc]ount from (\d+) to (\d+)(?: in (\w+))?", asked)
    name = (found and found[3]) or "English"
    if chinese := re.search(r"请从(\d+)数到(\d+)", asked):
        found, name = chinese, "Chinese"
    if found is None:
        return []
    a, b = int(found[1]), int(found[2])
    ways = [", ".join(map(str, range(a, b + 1)))] if name == "English" else []
    (language,) = (language for language in LANGUAGES if language.name == name)
    if b <= len(language.numbers):
        ways.append(language.sep.join(language.numbers[a - 1 : b]))
    return ways


def summed(asked):
    """The results of the sums asked for, in their order."""
    sums = re.findall(r"(?:(?<=^)|(?<=\s))\d+(?: [+-] \d+)+", asked)
    return [sum(int(part.replace(" ", "")) for part in re.findall(r"[+-]? ?\d+", s)) for s in sums]


def same_code(answer, wanted):
    """Whether two programs are the same but for how they are written down."""
    try:
        return ast.dump(ast.parse(answer)) == ast.dump(ast.parse(wanted))
    except SyntaxError:
        return False


def is_right(asked, answer):
    """Whether an answer is right, by what is asked: counting, sums, look-ups, code, a person."""
    if ways := counted(asked):
        return answer.strip(" .。") in ways
    if results := summed(asked):
        return [int(n) for n in re.findall(r"(?:= |^)(\d+)", answer)][-len(results) :] == results
    if key := re.search(r"note for (\w+)\?", asked):
        return re.search(rf"Note: {key[1]} (\w+)\.", asked)[1] in answer
    if person := re.search(r"person: (\w+) is (\d+)(?: and lives in (\w+))?", asked):
        name, age, city = person.groups()
        wanted = {"name": name, "age": int(age)} | ({"city": city} if city else {})
        return answer == json.dumps(wanted)
    if words := re.search(r"function that adds (\w+) and (\w+)", asked):
        a, b = words.groups()
        return same_code(answer, f"def add({a}, {b}): return {a} + {b}")
    if found := re.search(r"Print (\w+) (\d+) times", asked):
        return same_code(answer, f"for i in range({found[2]}): print({found[1]!r})")
    if colour := re.search(r"¿De qué color es el (\w+)\?", asked):
        return re.search(rf"El {colour[1]} es (\w+)", asked)[1] in answer
    return answer == SAID.get(asked, "Hello! How can I help you?" if "ello" in asked else None)


@pytest.fixture(scope="module")
def model():
    return g4.load()


def test_examples_are_found_everywhere():
    places = {where for where, _ in PRINTED}
    assert {"README", "card", "teachers", "Prompt", "help", "00_start_here"} <= places, places
    assert len(ASKED) >= 15 and len(table(TEACHERS)) >= 12 and len(table(CARD)) == 15
    sheet = [asked for code in code_of(NOTEBOOKS[0]) for asked in asked_in(code)]
    assert {asked for asked, _ in table(TEACHERS)} <= set(sheet), "the sheet of notebook 00"


def test_a_wrong_answer_is_told_from_a_right_one():
    for asked, said in SAID.items():
        assert is_right(asked, said), (asked, said)
        assert not is_right(asked, "12") or "12" in said, asked


@pytest.mark.parametrize("asked", ASKED)
def test_at_temperature_0(model, asked):
    answer = g4.Chat(model, options={"temperature": 0.0, "max_tokens": 60}).send(asked).text
    assert is_right(asked, answer), answer
    assert answer == SAID.get(asked, answer)


@pytest.mark.slow
@pytest.mark.parametrize("asked", ASKED)
def test_nineteen_times_of_twenty_at_the_defaults(model, asked):
    answers = [g4.Chat(model).send(asked, seed=seed, max_tokens=60).text for seed in range(20)]
    assert sum(is_right(asked, answer) for answer in answers) >= 19, answers
