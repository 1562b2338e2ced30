"""The README's pictures: the five widgets on the teaching model, drawn by Chromium.

    python tests/browser/screenshots.py                # into notebooks/images/
    python tests/browser/screenshots.py --out FOLDER --only prompt,routing --theme dark --whole

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
#: Height of a picture at most, CSS pixels.
HEIGHTS = {"prompt": 760, "routing": 900, "attention": 1120, "anatomy": 760, "fit": 760}
NOTES = (("apple", "417"), ("mirror", "582"), ("tower", "936"))
FILLER = (
    "A moon finds a quiet garden. The night is long and the palace is old.",
    "In the morning the owl sleeps near a green hill. A mouse carries a small nest.",
    "The mountain is cold. Paper and orange paint lie on the table near the door.",
)
ASKED, VALUE = NOTES[1]


def prompt(model, page):
    """A short conversation, the token view of its last answer open."""
    widget = g4.widgets.Prompt(model, options={"temperature": 0})
    for text in ("Please count from 3 to 9.", "What is 27 + 15?"):
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


def needle(model, **plans):
    """Three notes hidden in other sentences, one asked for; and where the answer begins."""
    text = " ".join(f"{f} Note: {key} {value}." for f, (key, value) in zip(FILLER, NOTES))
    chat = g4.Chat(model, options={"temperature": 0})
    reply = chat.send(f"{text}\nWhat is the note for {ASKED}?")
    print(f"asked for {VALUE}, answered: {reply.text.strip()}")
    trace = chat.trace(**plans)
    found = trace.tokens.find(VALUE)
    start = found[-1].start if len(found) > 1 else len(trace.tokens) - 1
    return trace, found[0], start


def routing(model, page):
    trace, note, _ = needle(model, attention=None)
    layer = int(trace.routing.entropy().argmax())
    experts = trace.routing.at(trace.routing.layers[layer])[0]
    trace.selection.update(
        layer=int(trace.routing.layers[layer]), token=note.start, expert=int(experts[note.start, 0])
    )
    return snapshot(g4.widgets.Routing(trace, model=model), page)


def attention(model, page):
    """The head that looks from the word before the answer's value back to the note."""
    plan = g4.AttentionPlan(retain="all")
    trace, note, start = needle(model, routing=None, attention=plan)
    best = trace.attention.find((start - 1, start), (note.start, note.stop), top=1)[0]
    trace.selection.update(layer=best.layer, head=best.head, token=start - 1)
    root = snapshot(g4.widgets.Attention(trace), page)
    root.get_by_role("button", name="Zoom to token").click()
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)
    return root


def anatomy(model, page):
    return snapshot(g4.widgets.Anatomy(model), page)


def fit(model, page):
    return snapshot(g4.widgets.Fit(), page)


def palette(picture):
    """The 256 commonest colours: plenty for flat surfaces, and a third of the bytes. Pillow's own
    choice gives one colour to swatches that are to be told apart."""
    colors = sorted(picture.getcolors(picture.width * picture.height), reverse=True)[:256]
    table = Image.new("P", (1, 1))
    table.putpalette([v for _, color in colors for v in color])
    return table


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
    parser.add_argument("--theme", choices=("light", "dark"), default="light")
    parser.add_argument("--whole", action="store_true", help="not only the upper part")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = g4.load()
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        context = browser.new_context(
            viewport={"width": WIDTH, "height": 1000},
            device_scale_factor=SCALE,
            color_scheme=options.theme,
            reduced_motion="reduce",
        )
        for name in options.only.split(","):
            page = context.new_page()
            target = options.out / f"{name}.png"
            PICTURES[name](model, page).screenshot(path=target)
            page.close()
            picture = Image.open(target).convert("RGB")
            if not options.whole:
                height = min(picture.height, int(HEIGHTS[name] * SCALE))
                picture = picture.crop((0, 0, picture.width, height))
            picture = picture.quantize(palette=palette(picture), dither=Image.Dither.NONE)
            picture.save(target, optimize=True)
            print(f"{target.name}: {picture.width} x {picture.height}, {target.stat().st_size:,} B")
        browser.close()


if __name__ == "__main__":
    main()
