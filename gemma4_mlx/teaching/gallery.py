"""Pages to look at where nothing can be installed: one for each widget and scenario.

    python -m gemma4_mlx.teaching.gallery FOLDER

Each page is a widget as it stands in a notebook, alive without Python or a network, made with the
teaching model at temperature 0. ``index.html`` leads to them.
"""

import argparse
import html
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

import gemma4_mlx as g4

from ..atomic import write
from ..widgets.routing import Routing
from . import sounds

GREEDY = {"temperature": 0.0, "max_tokens": 60}
MIXED = (
    "El gato es negro. El perro es blanco. ¿De qué color es el perro?",
    "Count from 2 to 6 in French.",
    "请从2数到6。",
    "Write a Python function that adds apple and pear.",
    "What is 27 + 15?",
)
KEYS = {"drum": 471, "key": 208, "stone": 935}


class Scene(NamedTuple):
    """A page: its file, what it shows, and what makes its widget of the model."""

    name: str
    title: str
    make: Callable


def picture() -> Image.Image:
    """A red circle on the left and a blue square on the right."""
    page = Image.new("RGB", (192, 192), "white")
    draw = ImageDraw.Draw(page)
    draw.ellipse((8, 72, 56, 120), fill=(220, 40, 40))
    draw.rectangle((136, 72, 184, 120), fill=(40, 90, 220))
    return page


def beeps(count: int = 3) -> np.ndarray:
    """Tones of 0.14 s between silences of 0.12 s: float32 at 16 kHz."""
    t = np.arange(int(0.14 * sounds.RATE)) / sounds.RATE
    fade = np.minimum(1, np.minimum(t, t[::-1]) * 100)
    gap = np.zeros(int(0.12 * sounds.RATE), np.float32)
    tone = (0.3 * fade * np.sin(2 * np.pi * 600 * t)).astype(np.float32)
    return np.concatenate([gap, *[tone, gap] * count])


def notes(filler: int = 60) -> str:
    """Three notes far apart between other sentences, and a question for the second."""
    rng = np.random.default_rng(3)
    people, things = ("Anna", "Ben", "Clara", "David"), ("lamp", "boat", "clock", "garden")
    parts = [f"{rng.choice(people)} has an old {rng.choice(things)}." for _ in range(filler)]
    for i, (key, number) in enumerate(KEYS.items()):
        parts.insert((i + 1) * filler // 4, f"Note: {key} {number}.")
    return " ".join(parts) + "\nWhat is the note for key?"


def asked(model, text: str, **media) -> "g4.Chat":
    """A chat in which one thing was asked and answered."""
    chat = g4.Chat(model, options=GREEDY)
    chat.send(text, **media)
    return chat


def mixed(model) -> "g4.Chat":
    """A conversation in several languages, about code, a sum and a picture."""
    messages = []
    for text in MIXED:
        messages += asked(model, text).messages
    messages += asked(model, "What do you see?", images=[picture()]).messages
    return g4.Chat(model, messages=messages, options=GREEDY)


def _prompt(model, *texts: str, **options):
    media = options.pop("media", {})
    widget = g4.widgets.Prompt(model, options=GREEDY, **options)
    for text in texts:
        widget.say(text, **media)
        widget.wait()
    return widget


def _weather(model):
    def get_weather(city: str) -> dict:
        """Get the weather in a city.

        Args:
            city: City name
        """
        return {"sky": "sunny", "temperature": 18}

    return _prompt(model, "How is the weather in Paris today?", tools=[get_weather], approve=False)


def _compared(model):
    programs = "def add({0}, {1}):\n    return {0} + {1}\n"
    words = "apple pear lamp boat clock chair stone garden".split()
    code = "".join(programs.format(a, b) for a, b in zip(words, words[1:] + words[:1]))
    pairs = ((12, 30), (27, 15), (31, 9), (8, 44))
    sums = "".join(f"What is {a} + {b}? {a} + {b} = {a + b}. " for a, b in pairs)
    return Routing(*(g4.trace(model, text * 2, attention=None) for text in (code, sums)))


def _without(model):
    chat = asked(model, MIXED[0])
    view = Routing(chat.trace(attention=None), model=model)
    layer = int(view.trace.routing.layers[0])
    load = view.trace.routing.load(layer)
    used = [e for e in np.argsort(-load) if load[e] > 0]
    for experts in (used[:1], used):  # others stand in for one, nobody for all
        changes = [{"layer": layer, "expert": int(e), "action": "drop"} for e in experts]
        while "running" in view.answer_whatif(changes, everywhere=True):
            pass  # each call waits a moment
    return view


def _attention(model, text: str, **media):
    trace = asked(model, text, **media).trace(attention=g4.AttentionPlan(retain="all"))
    return g4.widgets.Attention(trace)


SCENES = (
    Scene("prompt-chat", "Prompt: a conversation, every token with its alternatives",
          lambda model: _prompt(model, "Hello", "Please count from 3 to 9.", "Tell me a joke.")),
    Scene("prompt-picture", "Prompt: a question about a picture",
          lambda model: _prompt(model, "What do you see?", media={"images": [picture()]})),
    Scene("prompt-thinking", "Prompt: a sum in two steps, thought about first",
          lambda model: _prompt(model, "What is 12 + 30 - 5?", thinking=True)),
    Scene("prompt-tools", "Prompt: a tool is called, and its result read", _weather),
    Scene("routing-mixed", "Routing: three languages, code, a sum and a picture",
          lambda model: Routing(mixed(model).trace(attention=None))),
    Scene("routing-compared", "Routing: code against sums, with a test", _compared),
    Scene("routing-without", "Routing: without an expert, and without a layer's", _without),
    Scene("attention-needle", "Attention: a note hidden in a long text, and the head that finds it",
          lambda model: _attention(model, notes())),
    Scene("attention-picture", "Attention: where it looks in a picture",
          lambda model: _attention(model, "Where is the square?", images=[picture()])),
    Scene("attention-sound", "Attention: what it listens to in three beeps",
          lambda model: _attention(model, "How many tones do you hear?",
                                   audio=[g4.chat.Audio(beeps(), rate=sounds.RATE)])),
    Scene("why-needle", "Why: what spoke for the answer's first token",
          lambda model: g4.widgets.Why(asked(model, notes(8)))),
    Scene("atlas", "Atlas: what every expert is for, over the domains",
          lambda model: g4.widgets.Atlas(g4.teaching.atlas())),
    Scene("anatomy", "Anatomy: what the model is made of, to scale",
          lambda model: g4.widgets.Anatomy(model)),
    Scene("fit", "Fit: which model fits which Mac", lambda model: g4.widgets.Fit()),
)  # fmt: skip

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Gemma 4, looked into</title>
<meta name="viewport" content="width=device-width">
<style>:root{{color-scheme:light dark}}
body{{font:1.1em/1.6 system-ui;max-width:44em;margin:2em auto;
padding:0 1em}}</style></head><body><h1>Gemma 4, looked into</h1>
<p>Each page is a widget of a notebook, as it stood there. It can be clicked, and answers from what
was recorded; it needs neither Python nor a network.</p>
<ul>{items}</ul></body></html>
"""


def build(folder: Path, names: list[str] | None = None, progress=print) -> list[Path]:
    """Write the pages of all scenes, or of those named, and the index of what is there.

    Args:
        folder: made if it is missing; pages of the same name are replaced.
        names: of :data:`SCENES`; None for all.
        progress: told a line for each page.

    Raises ValueError for a name that is no scene's, OSError if a page cannot be written.
    """
    known = [scene.name for scene in SCENES]
    if unknown := sorted(set(names or ()) - set(known)):
        raise ValueError(f"no scene {', '.join(unknown)}; there are {', '.join(known)}")
    folder.mkdir(parents=True, exist_ok=True)
    model, pages = g4.load(), []
    for scene in SCENES:
        page = folder / f"{scene.name}.html"
        if names is None or scene.name in names:
            scene.make(model).save_html(page)
            progress(f"{page.name}: {page.stat().st_size / 2**20:.1f} MiB")
        if page.exists():
            pages.append((page, scene.title))
    items = "".join(
        f'<li><a href="{page.name}">{html.escape(title)}</a></li>' for page, title in pages
    )
    write(folder / "index.html", PAGE.format(items=items))
    return [page for page, _ in pages]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these pages alone")
    options = parser.parse_args()
    try:
        build(options.folder, options.only)
    except ValueError as error:
        parser.error(str(error))
    print(f"open {options.folder / 'index.html'}")


if __name__ == "__main__":
    main()
