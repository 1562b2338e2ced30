"""The README's pictures: the seven widgets on the teaching model, in a live JupyterLab.

    python tests/browser/screenshots.py                # into notebooks/images/
    python tests/browser/screenshots.py --out FOLDER --only prompt,routing --theme dark --whole

A notebook is opened and run in Chromium as a reader does it, and the widgets are photographed as
they stand there.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import numpy as np  # noqa: E402
from conftest import Lab, _opener  # noqa: E402
from PIL import Image, ImageChops  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

WIDTH, SCALE = 1250, 1.25  # CSS pixels of the window, device pixels per CSS pixel
#: Height of a picture at most, CSS pixels.
HEIGHTS = {
    "prompt": 760, "routing": 900, "attention": 1120, "why": 900, "anatomy": 760, "fit": 760,
    "atlas": 760,
}  # fmt: skip

SETUP = '''
import gemma4_mlx as g4

model = g4.load()
notes = {"apple": "417", "mirror": "582", "tower": "936"}
filler = (
    "A moon finds a quiet garden. The night is long and the palace is old.",
    "In the morning the owl sleeps near a green hill. A mouse carries a small nest.",
    "The mountain is cold. Paper and orange paint lie on the table near the door.",
)
asked = "mirror"


def needle(**plans):
    """Three notes hidden in other sentences, one asked for; and where the answer begins."""
    text = " ".join(f"{f} Note: {key} {notes[key]}." for f, key in zip(filler, notes))
    chat = g4.Chat(model, options={"temperature": 0})
    reply = chat.send(f"{text}\\nWhat is the note for {asked}?")
    print(f"asked for {notes[asked]}, answered: {reply.text.strip()}")
    trace = chat.trace(**plans)
    found = trace.tokens.find(notes[asked])
    return trace, found[0], found[-1].start if len(found) > 1 else len(trace.tokens) - 1
'''
PROMPT = """
widget = g4.widgets.Prompt(model, options={"temperature": 0})
for text in ("Please count from 3 to 9.", "Tell me a joke."):
    widget.say(text)
    widget.wait()
widget
"""
# Code, sums and prose in turns, so that experts have something to differ in.
ROUTING = """
code = "```python\\ndef add(apple, pear):\\n    return apple + pear\\n```\\n"
sums = "What is 27 + 15? 27 + 15 = 42. What is 8 + 6? 8 + 6 = 14.\\n"
prose = "A moon finds a quiet garden. In the morning the owl sleeps near a green hill.\\n"
trace = g4.trace(model, (code + sums + prose) * 3, attention=None)
trace.selection.update(token=trace.tokens.find("return")[0].start)
g4.widgets.Routing(trace, model=model)
"""
# The head that looks from the word before the answer's value back to the note.
ATTENTION = """
trace, note, start = needle(routing=None, attention=g4.AttentionPlan(retain="all"))
best = trace.attention.find((start - 1, start), (note.start, note.stop), top=1)[0]
trace.selection.update(layer=best.layer, head=best.head, token=start - 1)
g4.widgets.Attention(trace)
"""
WHY = """
chat = g4.Chat(model, options={"temperature": 0})
chat.send("Note: key 208. Note: drum 471. Note: lamp 935.\\nWhat is the note for key?")
g4.widgets.Why(chat, target="0", against="9")
"""
# The expert that is most for arithmetic.
ATLAS = """
atlas = g4.teaching.atlas()
best = atlas.lifts().experts("arithmetic")[0]
view = g4.widgets.Atlas(atlas)
view.selection = {**view.selection, "layer": best["layer"], "expert": best["expert"]}
view
"""
CELLS = {
    "prompt": PROMPT,
    "routing": ROUTING,
    "attention": ATTENTION,
    "why": WHY,
    "atlas": ATLAS,
    "anatomy": "g4.widgets.Anatomy(model)",
    "fit": "g4.widgets.Fit()",
}


def ready(name, root):
    """What a reader does before the picture is taken."""
    if name == "prompt":  # the token view of the first answer
        root.get_by_role("button", name="Show the tokens").first.click()
        tokens = root.locator(".g4-tok")
        tokens.first.wait_for()
        tokens.nth(min(4, tokens.count() - 1)).hover()
        root.locator(".g4-choice").first.wait_for()
    elif name == "attention":
        root.get_by_role("button", name="Zoom to token").click()
        root.page.mouse.move(0, 0)
    for _ in range(40):  # until every request is answered
        root.page.wait_for_timeout(1200)
        if root.get_attribute("data-waiting") == "0":
            return


def few_colors(picture):
    """The picture in 256 colours, a third of the bytes: those of the largest flat surfaces, so
    that the hues of swatches stay, and others as near as can be to every colour that is left."""
    pixels = np.asarray(picture)
    flat = np.ones(pixels.shape[:2], bool)  # where a square of six pixels begins
    for d in range(1, 6):
        flat[:-d] &= (pixels[:-d] == pixels[d:]).all(axis=2)
        flat[:, :-d] &= (pixels[:, :-d] == pixels[:, d:]).all(axis=2)
    surfaces, sizes = np.unique(pixels[flat], axis=0, return_counts=True)
    surfaces = surfaces[np.argsort(-sizes)][:160].astype(np.int16)
    colors, which = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    colors = colors.astype(np.int16)
    common = colors[np.argsort(-np.bincount(which.ravel()))]
    for distance in range(256):  # by channel, from any colour to the nearest of those picked
        left, picked = common, list(surfaces)
        for color in surfaces:
            left = left[np.abs(left - color).max(axis=1) > distance]
        while len(left) and len(picked) <= 256:
            picked.append(left[0])
            left = left[np.abs(left - left[0]).max(axis=1) > distance]
        if len(picked) <= 256:
            break
    nearest = [np.abs(np.array(picked) - color).max(axis=1).argmin() for color in colors]
    out = Image.fromarray(np.uint8(nearest)[which.ravel()].reshape(pixels.shape[:2]), "P")
    out.putpalette(np.array(picked, np.uint8).tobytes())
    return out


def save(root, target, height):
    """A picture of the widget, its upper ``height`` CSS pixels or all."""
    root.screenshot(path=target)
    picture = Image.open(target).convert("RGB")
    blank = Image.new(
        "RGB", picture.size, picture.getpixel((picture.width - 1, picture.height - 1))
    )
    picture = picture.crop(ImageChops.difference(picture, blank).getbbox())
    if height is not None:
        picture = picture.crop((0, 0, picture.width, min(picture.height, int(height * SCALE))))
    picture = few_colors(picture)
    picture.save(target, optimize=True)
    print(f"{target.name}: {picture.width} x {picture.height}, {target.stat().st_size:,} B")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "notebooks" / "images")
    parser.add_argument("--only", default=",".join(CELLS))
    parser.add_argument("--theme", choices=("light", "dark"), default="light")
    parser.add_argument("--whole", action="store_true", help="not only the upper part")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    names = options.only.split(",")
    lab = Lab(Path(tempfile.mkdtemp()))
    lab.start()
    try:
        lab.start_in(options.theme)
        with sync_playwright() as playwright:
            path = shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            # Tall enough for a whole widget: JupyterLab draws only what shows.
            size = {"width": WIDTH, "height": 3000}
            context = browser.new_context(
                viewport=size, device_scale_factor=SCALE, reduced_motion="reduce"
            )
            page = context.new_page()
            page.set_default_timeout(120_000)
            _opener(lab, page)(SETUP, *(CELLS[name] for name in names))
            for name in names:
                root = page.locator(f".g4-{name}")
                root.wait_for(state="attached", timeout=300_000)
                root.scroll_into_view_if_needed()
                ready(name, root)
                height = None if options.whole else HEIGHTS[name]
                save(root, options.out / f"{name}.png", height)
            browser.close()
    finally:
        lab.stop()


if __name__ == "__main__":
    main()
