"""The README's pictures: the five widgets on the teaching model, drawn by Chromium.

    python tests/browser/screenshots.py                # into notebooks/images/
    python tests/browser/screenshots.py --out FOLDER --only prompt,routing

Each widget answers a real prompt here and now; its own front end draws it from a snapshot.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from front import FrontEnd  # noqa: E402
from PIL import Image  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

import gemma4_mlx as g4  # noqa: E402

WIDTH, SCALE = 1080, 1.25  # CSS pixels, device pixels per CSS pixel
CODE = "Write a Python function that adds apple and pear.\n"


def prompt(model, page):
    """A short conversation, the token view of its last answer open."""
    widget = g4.widgets.Prompt(model, options={"temperature": 0})
    for text in ("Hello", "Please count from 3 to 9.", "Count from 1 to 5 in Spanish."):
        widget.say(text)
        widget.wait()
    last = len(widget.turns) - 1
    tokens = widget.answer_tokens(last)
    state = {n: getattr(widget, n) for n in ("turns", "about", "options", "stats", "busy", "error")}
    front = FrontEnd(page, "prompt", state, {"tokens": {"content": tokens}})
    page.set_viewport_size({"width": 860, "height": 900})
    front.root.get_by_role("button", name="Show the tokens").last.click()
    least = min(range(len(tokens)), key=lambda i: tokens[i][1])
    front.root.locator(".g4-tok").nth(least).hover()
    front.root.locator(".g4-choice").first.wait_for()
    return front.root


def routing(model, page):
    chat = g4.Chat(model, options={"temperature": 0})
    chat.send(CODE)
    trace = chat.trace(attention=None)
    trace.selection.update(layer=1, token=min(20, len(trace.tokens) - 1))
    return snapshot(g4.widgets.Routing(trace), page)


def attention(model, page):
    chat = g4.Chat(model, options={"temperature": 0})
    filler = "The tower is old. The river is wide. We walk to the market. "
    facts = [f"The note for key {k} is {v}." for k, v in zip("abcdefgh", range(111, 999, 111))]
    text = " ".join(filler + fact for fact in facts)
    chat.send(f"{text} What is the note for key c?")
    trace = chat.trace(routing=None)
    return snapshot(g4.widgets.Attention(trace), page)


def anatomy(model, page):
    return snapshot(g4.widgets.Anatomy(model), page)


def fit(model, page):
    return snapshot(g4.widgets.Fit(), page)


def snapshot(widget, page):
    path = widget.snapshot().save(Path(tempfile.mkdtemp()) / "widget.html")
    page.goto(path.as_uri())
    root = page.locator(".g4").first
    root.wait_for()
    page.wait_for_timeout(1200)
    return root


PICTURES = {f.__name__: f for f in (prompt, routing, attention, anatomy, fit)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "notebooks" / "images")
    parser.add_argument("--only", default=",".join(PICTURES))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = g4.load()
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        context = browser.new_context(
            viewport={"width": WIDTH, "height": 1000},
            device_scale_factor=SCALE,
            color_scheme="light",
            reduced_motion="reduce",
        )
        for name in options.only.split(","):
            page = context.new_page()
            target = options.out / f"{name}.png"
            PICTURES[name](model, page).screenshot(path=target)
            page.close()
            # 256 colours are plenty for flat surfaces, and a third of the bytes.
            picture = Image.open(target).convert("RGB")
            picture = picture.crop((0, 0, picture.width, min(picture.height, int(760 * SCALE))))
            picture.quantize(256, kmeans=2, dither=Image.Dither.NONE).save(target, optimize=True)
            print(f"{target.name}: {picture.width} x {picture.height}, {target.stat().st_size:,} B")
        browser.close()


if __name__ == "__main__":
    main()
