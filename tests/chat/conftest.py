"""A model that says what the test wrote, and the teaching model."""

import pytest
from scripted import Script, actor_like

import gemma4_mlx as g4


@pytest.fixture(scope="session")
def teaching():
    return g4.load()


@pytest.fixture(scope="session")
def tokenizer(teaching):
    return teaching.tokenizer


@pytest.fixture
def script(monkeypatch, tokenizer):
    found = Script(tokenizer)
    monkeypatch.setattr("gemma4_mlx.chat.answer.stream", found.stream)
    return found


@pytest.fixture
def actor(teaching, script):
    """A model that plays the script. Its weights are never used."""
    return actor_like(teaching)
