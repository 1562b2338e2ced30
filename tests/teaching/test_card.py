"""What the teaching model's card says of tools and thinking holds."""

import pytest

import gemma4_mlx as g4


@pytest.fixture(scope="module")
def model():
    return g4.load()


@pytest.mark.parametrize("city", ["Paris", "Rome", "Oslo", "Berlin", "Tokyo", "Cairo"])
def test_a_thought_about_a_tools_result_is_closed(model, city):
    """The template opens it, with thinking on; the answer stands behind it, as in later turns."""

    def get_weather(city: str) -> dict:
        """Get the current weather for a city.

        Args:
            city: City name
        """
        return {"sky": "sunny", "temperature": 21}

    chat = g4.Chat(model, tools=[get_weather], thinking=True, options={"temperature": 0.0})
    reply = chat.run(f"What is the weather in {city}?", max_tokens=80)
    assert reply.text == f"It is sunny in {city}, 21 degrees." and not reply.answered_in_thought
    assert chat.run("Thanks", max_tokens=40).text == "You are welcome!"
