"""Rendered scenes and handwritten digits, with questions about them.

Every picture goes through the product's preprocessing (spec 3.1): a square one becomes
192 x 192 px = 24 x 24 patches of 8 px = 64 soft tokens, each 24 px wide.
"""

import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from .render import Sample, conversation, held_out

COLOURS = {
    "red": (220, 30, 30), "green": (30, 160, 50), "blue": (40, 70, 220),
    "yellow": (240, 210, 30), "orange": (245, 130, 20), "purple": (140, 40, 170),
}  # fmt: skip
SHAPES = ["circle", "square", "triangle", "star", "cross"]
PLACES = {
    "top left": (0, 0), "top": (1, 0), "top right": (2, 0),
    "left": (0, 1), "middle": (1, 1), "right": (2, 1),
    "bottom left": (0, 2), "bottom": (1, 2), "bottom right": (2, 2),
}  # fmt: skip
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six"]
HOW_MANY = ["How many shapes are there?", "How many shapes do you see?", "Count the shapes."]
GRID = 8  # soft tokens of a square picture, across and down
PICTURE = "<|image|>"  # expanded to the soft tokens by data.py


def draw(rng, items, size=192, background=None) -> np.ndarray:
    """Draw (shape, colour, x, y, radius) items, coordinates in units of the picture's side."""
    if background is None:
        grey = int(rng.choice([255, 255, 245, 230, 20, 0]))
        background = (grey, grey, grey)
    image = Image.new("RGB", (size, size), background)
    pen = ImageDraw.Draw(image)
    for shape, colour, x, y, r in items:
        x, y, r = x * size, y * size, r * size
        fill = tuple(int(np.clip(v + rng.integers(-12, 13), 0, 255)) for v in COLOURS[colour])
        if shape == "circle":
            pen.ellipse([x - r, y - r, x + r, y + r], fill=fill)
        elif shape == "square":
            s = r * 0.88
            pen.rectangle([x - s, y - s, x + s, y + s], fill=fill)
        elif shape == "triangle":
            pen.polygon([(x, y - r), (x - r, y + r * 0.8), (x + r, y + r * 0.8)], fill=fill)
        elif shape == "star":
            points = [
                (x + f * r * math.sin(i * math.pi / 5), y - f * r * math.cos(i * math.pi / 5))
                for i, f in enumerate([1.1, 0.45] * 5)
            ]
            pen.polygon(points, fill=fill)
        else:
            s = r * 0.32
            pen.rectangle([x - r, y - s, x + r, y + s], fill=fill)
            pen.rectangle([x - s, y - r, x + s, y + r], fill=fill)
    return np.asarray(image)


def at(rng, column, row, r=None):
    """(x, y, radius) of a thing in one of the nine places, in units of the picture's side."""
    r = rng.uniform(0.11, 0.15) if r is None else r
    return (
        (column + 0.5) / 3 + rng.uniform(-0.02, 0.02), (row + 0.5) / 3 + rng.uniform(-0.02, 0.02), r
    )  # fmt: skip


def covered(x, y, r) -> np.ndarray:
    """Which of the soft tokens, bool (8, 8), a thing drawn there covers."""
    across, down = np.meshgrid(*[(np.arange(GRID) + 0.5) / GRID] * 2)
    return np.maximum(abs(across - x), abs(down - y)) < r * 1.15


def _covers(*where) -> list[int]:
    return np.flatnonzero(covered(*where)).tolist()


def _a(colour, shape):
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}"


def _plural(shape):
    return shape + ("es" if shape == "cross" else "s")


def _sentence(text):
    return text[0].upper() + text[1:] + "."


def _where(cell):
    """In words, where one of the nine places (0..8, row by row) is."""
    place = list(PLACES)[cell]
    return "in the middle" if place == "middle" else f"at the {place}"


def _counted(where):
    """Things are counted by pointing at them: "One on the left, two on the right: two."."""
    each = [f"{NUMBERS[i]} {w}" for i, w in enumerate(where, 1)]
    return _sentence(f"{', '.join(each)}: {NUMBERS[len(where)]}")


def _ask(rng, question, first):
    if not first:
        return question
    return question + PICTURE if rng.random() < 0.1 else PICTURE + question


def _keys(things, cells) -> list[str]:
    """The combination of a practice picture, and the scene that it happens to be, if any."""
    keys = [" ".join(f"{i} {c} {s}" for i, (s, c) in zip(cells, things, strict=True))]
    if len(set(things)) == 1:
        (s, c), *_ = things
        keys.append(f"many {len(cells)} {s} {c} {' '.join(map(str, cells))}")
    if cells in ([3, 5], [1, 7]):
        (s1, c1), (s2, c2) = things
        keys.append(f"two {s1} {c1} {s2} {c2} {cells == [3, 5]}")
    return keys


def grid(rng) -> Sample:
    """Practice that asks much of one picture: every place of it, or every thing in it, in turn.

    Two to six different things in the nine places. Only training sees it: a picture of a scene
    below costs as many tokens and teaches one or two words.
    """
    n = int(rng.integers(2, 7))
    cells = sorted(int(i) for i in rng.permutation(9)[:n])
    kinds = rng.permutation(len(SHAPES) * len(COLOURS))[:n]
    things = [(SHAPES[k % len(SHAPES)], list(COLOURS)[k // len(SHAPES)]) for k in kinds]
    picture = draw(
        rng,
        [(s, c, *at(rng, i % 3, i // 3)) for (s, c), i in zip(things, cells, strict=True)],
        int(rng.choice([192, 192, 128])),
    )
    where = [_where(i) for i in cells]
    said = [f"{_a(c, s)} {w}" for (s, c), w in zip(things, where, strict=True)]
    turns = [("List everything.", _sentence(", ".join(said)))]
    if rng.random() < 0.5:
        turns = []
        for i in rng.permutation(n):
            (s, c), w = things[i], where[i]
            about = [
                (f"What is {w}?", _sentence(_a(c, s))),
                (f"Where is the {c} {s}?", _sentence(w)),
            ]
            turns.append(about[int(rng.integers(2))])
    turns[0] = (_ask(rng, turns[0][0], True), turns[0][1])
    return Sample(
        "image", "picture grid", _keys(things, cells), conversation(turns), images=[picture]
    )


def quiz(rng) -> Sample:
    """Practice: many questions about one picture of two to six things, some of them alike.

    Only training sees it. With several things about, an earlier answer seldom gives a later one
    away: each has to be looked up in the picture, by shape, by colour or by place.
    """
    n = int(rng.integers(2, 7))
    cells = sorted(int(i) for i in rng.permutation(9)[:n])
    shapes = rng.choice(SHAPES, int(rng.integers(1, 5)), replace=False)
    colours = rng.choice(list(COLOURS), int(rng.integers(1, 6)), replace=False)
    things = [(str(rng.choice(shapes)), str(rng.choice(colours))) for _ in range(n)]
    spots = [at(rng, i % 3, i // 3, rng.uniform(0.09, 0.15)) for i in cells]
    items = [(*thing, *spot) for thing, spot in zip(things, spots, strict=True)]
    picture = draw(rng, items, int(rng.choice([192, 192, 128])))
    said = [s for s, _ in things]
    painted = [c for _, c in things]
    where = [_where(i) for i in cells]
    asked = [(str(rng.choice(HOW_MANY)), _counted(where), [])]
    for (s, c), w, spot in zip(things, where, spots, strict=True):
        seen = _covers(*spot)
        asked.append((f"What is {w}?", _sentence(_a(c, s)), seen))
        if said.count(s) == 1:
            asked.append((f"Where is the {s}?", _sentence(w), seen))
            asked.append((f"What colour is the {s}?", _sentence(c), seen))
        if things.count((s, c)) == 1:
            asked.append((f"Where is the {c} {s}?", _sentence(w), seen))
        if painted.count(c) == 1:
            asked.append((f"Which shape is {c}?", _sentence(f"the {s}"), seen))
    asked = [asked[i] for i in rng.permutation(len(asked))[:12]]
    turns = [(_ask(rng, q, i == 0), answer) for i, (q, answer, _) in enumerate(asked)]
    return Sample(
        "image", "picture quiz", _keys(things, cells), conversation(turns), images=[picture],
        looks=[seen for _, _, seen in asked],
    )  # fmt: skip


def scene(rng, questions=None) -> Sample:
    """One shape somewhere, two shapes beside or above each other, or several of one kind.

    `questions`: how many are asked of it; none means any number.
    """
    size = int(rng.choice([192, 192, 192, 96, 128, 256]))
    s1, s2 = rng.choice(SHAPES, 2, replace=False)
    c1, c2 = rng.choice(list(COLOURS), 2, replace=False)
    kind = rng.random()
    if kind < 0.3:
        place = rng.choice(list(PLACES))
        spot = at(rng, *PLACES[place])
        picture, seen = draw(rng, [(s1, c1, *spot)], size), _covers(*spot)
        key = f"one {s1} {c1} {place}"
        where = _where(list(PLACES).index(place))
        asked = {
            "describe": (["What is this?", "Describe the picture.", "What do you see?",
                          "What is in the picture?", "Describe this image."],
                         _sentence(f"{_a(c1, s1)} {where}")),
            "shape": (["What shape is it?", "Which shape do you see?", "What shape is this?"],
                      _sentence(f"a {s1}")),
            "colour": (["What colour is it?", "Which colour is the shape?",
                        f"What color is the {s1}?"], _sentence(c1)),
            "position": ([f"Where is the {s1}?", "Where is it?", "Where is the shape?"],
                         _sentence(where)),
        }  # fmt: skip
    elif kind < 0.65:
        across = rng.random() < 0.5
        first, second = ((0, 1), (2, 1)) if across else ((1, 0), (1, 2))
        words = ("on the left", "on the right") if across else ("at the top", "at the bottom")
        spots = at(rng, *first), at(rng, *second)
        picture = draw(rng, [(s1, c1, *spots[0]), (s2, c2, *spots[1])], size)
        key = f"two {s1} {c1} {s2} {c2} {across}"
        which = int(rng.integers(2))
        s, c, w = [(s1, c1, words[0]), (s2, c2, words[1])][which]
        seen = _covers(*spots[which])
        asked = {
            "describe": (["What is this?", "Describe the picture.", "What do you see?",
                          "What is in the picture?", "Describe this image."],
                         _sentence(f"{_a(c1, s1)} {words[0]} and {_a(c2, s2)} {words[1]}")),
            "shape": ([f"Which shape is {c}?", f"What shape is {c}?"], _sentence(f"the {s}")),
            "colour": ([f"What colour is the {s}?", f"Which colour is the {s}?",
                        f"What color is the {s}?"], _sentence(c)),
            "position": ([f"Where is the {s}?", f"Where is the {c} {s}?"], _sentence(w)),
            "count": (HOW_MANY, _counted(words)),
        }  # fmt: skip
    else:
        n = int(rng.integers(2, 7))
        cells = sorted(int(i) for i in rng.permutation(9)[:n])
        picture = draw(
            rng, [(s1, c1, *at(rng, i % 3, i // 3, rng.uniform(0.09, 0.13))) for i in cells], size
        )
        seen = []
        they = _plural(s1)
        key = f"many {n} {s1} {c1} {' '.join(map(str, cells))}"
        asked = {
            "count": ([f"How many {they} are there?", "How many shapes are there?",
                       f"How many {c1} {they} do you see?", "How many shapes do you see?",
                       "Count the shapes."], _counted([_where(i) for i in cells])),
            "shape": (["What shape are they?", "Which shape do you see?"], _sentence(they)),
            "colour": (["What colour are they?", f"What color are the {they}?"], _sentence(c1)),
        }  # fmt: skip
    names = [str(q) for q in rng.permutation(list(asked))]
    names = names[: questions or int(rng.integers(1, len(names) + 1))]
    turns = []
    for i, name in enumerate(names):
        phrasings, answer = asked[name]
        turns.append((_ask(rng, str(rng.choice(phrasings)), i == 0), answer))
    looks = [seen if name in ("shape", "colour", "position") else [] for name in names]
    return Sample(
        "image", f"picture {names[-1]}", [key], conversation(turns), images=[picture], looks=looks
    )


@cache
def digits():
    """scikit-learn's handwritten digits: (images (1797, 8, 8) of 0..16, labels)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images, data.target


def digit(rng) -> Sample:
    """A handwritten digit, enlarged; whole images are held out, by their index."""
    images, labels = digits()
    i = int(rng.integers(len(images)))
    side = int(rng.choice([64, 96, 192, 192]))
    small = images[i] / 16
    if not held_out(f"digit {i}"):  # shifts and fading for training, the plain image for the test
        small = np.roll(small, rng.integers(-1, 2, 2), (0, 1)) * rng.uniform(0.8, 1)
    if rng.random() < 0.4:
        small = 1 - small
    picture = Image.fromarray((small * 255).astype(np.uint8)).resize((side, side), 3)
    ask = rng.choice(
        [
            "Which digit is this?",
            "What digit is this?",
            "Read the digit.",
            "What number is this?",
            "Which number is written here?",
        ]
    )
    return Sample(
        "image",
        "digit",
        [f"digit {i}"],
        conversation([(_ask(rng, str(ask), True), f"It is a {labels[i]}.")]),
        images=[np.asarray(picture.convert("RGB"))],
    )
