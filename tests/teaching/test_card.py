"""What the teaching model's card says that it answers, it answers."""

import re
from pathlib import Path

import pytest

import gemma4_mlx as g4

CARD = Path(g4.__file__).parent / "teaching" / "README.md"
ROWS = re.findall(r"(?m)^\|[^|]*\| `([^`]+)` \| `([^`]+)` \|$", CARD.read_text("utf-8"))


@pytest.fixture(scope="module")
def model():
    return g4.load()


def test_the_table_is_found():
    assert len(ROWS) == 11


@pytest.mark.parametrize(("asked", "answer"), ROWS)
def test_an_example_of_the_card(model, asked, answer):
    chat = g4.Chat(model, options={"temperature": 0.0, "max_tokens": 60})
    assert chat.send(asked).text == answer
