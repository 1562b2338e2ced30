"""Functions as tools: declared, checked, called, whatever they do."""

import dataclasses
import datetime
import enum
import threading
import time
from typing import Annotated, Literal

import numpy as np
import pytest
from PIL import Image as PILImage
from pydantic import BaseModel, Field
from waiting import PATIENCE

from gemma4_mlx.chat import Tool
from gemma4_mlx.chat.declarations import declared_schema
from gemma4_mlx.chat.docstrings import read_docstring
from gemma4_mlx.chat.messages import Image, ToolCall
from gemma4_mlx.chat.tools import as_tools, call_tool
from gemma4_mlx.errors import ToolError
from gemma4_mlx.processing.template import render


class Unit(enum.Enum):
    C = "c"
    F = "f"


class Place(BaseModel):
    """A place."""

    name: str = Field(description="What it is called")
    inside: "Place | None" = None


def forecast(
    city: str,
    unit: Unit = Unit.C,
    days: int | None = None,
    where: Place | None = None,
    tags: list[str] = (),
    limits: dict[str, float] | None = None,
    size: Literal[1, 2] = 1,
    key: int | str = 0,
    model_config: bool = False,
) -> dict:
    """Weather forecast for a city.

    Args:
        city: Name of the city,
            in English.
        unit (Unit): Degrees.
        days: How many days.
        where: More exactly.
        tags: What to add.
        limits: Alarm levels.
        size: How large.
        key: Which one.
        model_config: A name that pydantic keeps to itself.

    Returns:
        The forecast.
    """
    return {"city": city, "unit": unit, "where": where, "days": days}


def test_declaration():
    function = Tool.from_function(forecast).declaration["function"]
    assert function["name"] == "forecast"
    assert function["description"] == "Weather forecast for a city."
    p = function["parameters"]["properties"]
    assert p["city"] == {"type": "string", "description": "Name of the city, in English."}
    assert p["unit"] == {"type": "string", "enum": ["c", "f"], "description": "Degrees."}
    assert p["days"] == {"type": "integer", "nullable": True, "description": "How many days."}
    assert p["tags"]["items"] == {"type": "string"}
    assert p["where"]["nullable"]
    assert p["where"]["properties"]["name"]["description"] == "What it is called"
    assert "again a Place" in p["where"]["properties"]["inside"]["description"]
    assert p["size"] == {"type": "integer", "description": "How large. (one of: 1, 2)"}
    assert "one of: integer, string" in p["key"]["description"]
    assert p["limits"]["type"] == "object"
    assert function["parameters"]["required"] == ["city"]


def test_declaration_as_the_model_reads_it():
    def add(a: float, b: float) -> float:
        """Add two numbers.

        Args:
            a: One.
            b: The other.
        """
        return a + b

    text = render([{"role": "user", "content": "x"}], [Tool.from_function(add).declaration]).text
    assert text.startswith(
        '<bos><|turn>system\n<|tool>declaration:add{description:<|"|>Add two numbers.<|"|>,'
        'parameters:{properties:{a:{description:<|"|>One.<|"|>,type:<|"|>NUMBER<|"|>},'
        'b:{description:<|"|>The other.<|"|>,type:<|"|>NUMBER<|"|>}},'
        'required:[<|"|>a<|"|>,<|"|>b<|"|>],type:<|"|>OBJECT<|"|>}}<tool|><turn|>\n'
    )


def test_arguments_are_checked_and_converted():
    tool = Tool.from_function(forecast)
    given = tool.validate({"city": "Paris", "days": "3", "unit": "f", "where": {"name": "x"}})
    assert given == {"city": "Paris", "days": 3, "unit": Unit.F, "where": Place(name="x")}
    for wrong, words in [
        ({}, "city: this parameter is required"),
        ({"city": 3}, "city: Input should be a valid string"),
        ({"city": "x", "dayz": 1}, "dayz: there is no such parameter"),
        ({"city": "x", "unit": "k"}, "unit: Input should be 'c' or 'f'"),
        ({"city": "x", "where": {}}, "where.name: this parameter is required"),
    ]:
        with pytest.raises(ToolError, match=words):
            tool.validate(wrong)


def undocumented(a: int):
    """Does something."""


def no_docstring(a: int): ...


def no_hint(a):
    """Does something.

    Args:
        a: A number.
    """


def many(*numbers: int):
    """Does something.

    Args:
        numbers: Numbers.
    """


def keywords(**numbers: int):
    """Does something."""


def positional(a: int, /):
    """Does something.

    Args:
        a: A number.
    """


def described_too_much(a: int):
    """Does something.

    Args:
        a: A number.
        b: Not there.
    """


def odd_type(a: object, b: np.ndarray):
    """Does something.

    Args:
        a: Anything.
        b: No JSON.
    """


def unknown_type(a: "NoSuchType"):  # noqa: F821
    """Does something.

    Args:
        a: Anything.
    """


def words_for_a_hint(a: "name of the city"):  # noqa: F722
    """Does something.

    Args:
        a: Anything.
    """


@pytest.mark.parametrize(
    "function, words",
    [
        (undocumented, "'a' of 'undocumented' is not documented"),
        (no_docstring, "needs a docstring"),
        (no_hint, "'a' of 'no_hint' has no type hint"),
        (many, r"takes \*numbers"),
        (keywords, r"takes \*\*numbers"),
        (positional, "positional-only"),
        (described_too_much, "describes 'b', not a parameter"),
        (odd_type, "cannot write as JSON"),
        (unknown_type, "cannot be read"),
        (words_for_a_hint, "cannot be read"),
        (lambda: 1, "needs a docstring"),
        ("forecast", "must be a function"),
    ],
    ids=lambda x: getattr(x, "__name__", None) or str(x)[:12],
)
def test_functions_that_cannot_be_tools(function, words):
    with pytest.raises(ToolError, match=words):
        as_tools([function])


def test_names():
    with pytest.raises(ToolError, match="two tools are called 'forecast'"):
        as_tools([forecast, Tool.from_function(forecast)])
    with pytest.raises(ToolError, match="cannot be a tool's name"):
        Tool.from_function(forecast, name="two words")
    for single in (forecast, Tool.from_function(forecast), 5):
        with pytest.raises(ToolError, match="must be a list"):
            as_tools(single)
    for timeout in ("5", 0, -1):
        with pytest.raises(ToolError, match="'forecast' needs a timeout"):
            Tool.from_function(forecast, timeout=timeout)
    assert list(as_tools([forecast, Tool.from_function(forecast, name="other")])) == [
        "forecast",
        "other",
    ]


def test_annotated_descriptions():
    def f(a: Annotated[int, "A number."], b: Annotated[int, Field(description="B.", ge=1)] = 1):
        """Does something."""

    p = Tool.from_function(f).declaration["function"]["parameters"]["properties"]
    assert (p["a"]["description"], p["b"]["description"]) == ("A number.", "B.")
    with pytest.raises(ToolError, match="b: Input should be greater"):
        Tool.from_function(f).validate({"a": 1, "b": 0})


NUMPY = """Title.

More text
over lines.

Parameters
----------
a : int
    First.
    Goes on.
b, c : str, optional
    Both.

Returns
-------
x
"""
REST = """Title.

More text
over lines.

:param a: First.
    Goes on.
:param str b: Both.
:param c: Both.
:returns: x
:raises ValueError: never
"""


@pytest.mark.parametrize("docstring", [NUMPY, REST], ids=["numpy", "reStructuredText"])
def test_docstring_styles(docstring):
    description, parameters = read_docstring(docstring)
    assert description == "Title.\n\nMore text over lines."
    assert parameters == {"a": "First. Goes on.", "b": "Both.", "c": "Both."}


def test_foreign_schemas():
    declared = declared_schema(
        {
            "type": "object",
            "$defs": {"T": {"enum": ["x", None]}},
            "properties": {
                "a": {"type": ["string", "null"], "description": "A."},
                "b": {"$ref": "#/$defs/T"},
                "c": {"const": "k"},
                "d": {"items": {"type": "integer"}},
                "e": True,
                "f": {"type": "array", "prefixItems": [{"type": "number"}, {"type": "string"}]},
                "g": {"allOf": [{"type": "integer"}]},
            },
        }
    )["properties"]
    assert declared["a"] == {"type": "string", "nullable": True, "description": "A."}
    assert declared["b"] == {"type": "string", "enum": ["x"], "nullable": True}
    assert declared["c"] == {"type": "string", "enum": ["k"]}
    assert declared["d"] == {"type": "array", "items": {"type": "integer"}}
    assert declared["e"] == {"type": "string"}
    assert "in order: number, string" in declared["f"]["description"]
    assert declared["g"] == {"type": "integer"}


# Calling


@dataclasses.dataclass
class Point:
    x: int
    when: datetime.date


def returning(value):
    def f() -> object:
        """Returns something."""
        return value

    return as_tools([f])


CALL = ToolCall("c", "f", {})


@pytest.mark.parametrize(
    "value, result",
    [
        ("text", "text"),
        (None, None),
        (3.5, 3.5),
        ({"a": (1, 2), 3: {4}}, {"a": [1, 2], "3": [4]}),
        (Place(name="x"), {"name": "x", "inside": None}),
        (Point(1, datetime.date(2026, 1, 2)), {"x": 1, "when": "2026-01-02"}),
        (np.float32(0.5), 0.5),
        (np.arange(3), [0, 1, 2]),
        ([Unit.C], ["c"]),
    ],
)
def test_results_become_plain(value, result):
    assert call_tool(CALL, returning(value)).result == result


def test_results_may_hold_pictures():
    picture = PILImage.new("RGB", (4, 4))
    got = call_tool(CALL, returning(picture))
    assert got.result is None
    assert got.media[0].source is picture
    got = call_tool(CALL, returning({"title": "a cat", "picture": Image("cat.png")}))
    assert got.result == {"title": "a cat", "picture": "image 1"}
    assert [m.source for m in got.media] == ["cat.png"]


def test_what_goes_wrong_is_told():
    def f(n: int = 1) -> float:
        """Divides.

        Args:
            n: By this.
        """
        return 1 / n

    tools = as_tools([f])
    assert call_tool(ToolCall("c", "f", {"n": 0}), tools).error == (
        "ZeroDivisionError: division by zero"
    )
    assert (
        "n: Input should be a valid integer"
        in call_tool(ToolCall("c", "f", {"n": []}), tools).error
    )
    assert "there is no tool 'g'; the tools are: f" in call_tool(ToolCall("c", "g"), tools).error
    assert call_tool(ToolCall("c", "f", {}, "unreadable"), tools).error == "unreadable"


def test_hanging_and_leaving_tools():
    over = threading.Event()

    def hang() -> str:
        """Comes back when the test is over."""
        over.wait(PATIENCE)
        return "late"

    def leave() -> str:
        """Exits."""
        raise SystemExit(3)

    async def later() -> str:
        """Is asynchronous."""
        return "done"

    tools = as_tools([Tool.from_function(hang, timeout=0.1), leave, later])
    start = time.perf_counter()
    assert "no result after 0.1 s" in call_tool(ToolCall("c", "hang"), tools).error
    assert call_tool(ToolCall("c", "hang"), tools, cancelled=lambda: True).error
    assert time.perf_counter() - start < PATIENCE / 2
    over.set()
    assert call_tool(ToolCall("c", "leave"), tools).error == "SystemExit: 3"
    assert call_tool(ToolCall("c", "later"), tools).result == "done"
