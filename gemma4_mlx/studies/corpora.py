"""Labelled texts that need no download: to try an atlas with, or as a ground to compare others to.

    g4.atlas(model, corpora.starter())
    g4.atlas(g4.load(), corpora.teaching(model))

What is read comes with Python, its standard library (the PSF's licence); with installed packages,
their licences; and with this one: the Universal Declaration of Human Rights in 150 languages and a
novel in the public domain (``texts/README.md`` says where from). What is written is drawn from a
seed. Every corpus can be read again and again, in the same order; each is long enough for 100,000
tokens of a real model.
"""

import ast
import json
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import numpy as np

from ..errors import StudyError
from . import texts

#: Documents of a corpus that is written; each has about 1,000 characters or more.
DOCUMENTS = 1000
#: Articles of the declaration in a document, and characters of the novel, at least.
ARTICLES, PAGE = 3, 3000


@dataclass(frozen=True)
class Corpus:
    """Documents that are made as they are read. ``make()`` begins anew."""

    make: Callable[[], Iterator]

    def __iter__(self) -> Iterator:
        return self.make()


def starter(*names: str, seed: int = 0) -> dict[str, Corpus]:
    """Some corpora, or all: "code" and "manual" (modules of the standard library, and what their
    docstrings say), "law" (licences), "languages" (the declaration of human rights, a few articles
    in every language before the next few), "prose" (a novel), "arithmetic", "json", "tables" and
    "dialogues".

    ``seed``: of those that are written.

    Raises StudyError for a name that does not exist.
    """
    if unknown := set(names) - _STARTERS.keys():
        raise StudyError(
            f"no starter corpus {min(unknown)!r}; there are {', '.join(sorted(_STARTERS))}"
        )
    chosen = names or sorted(_STARTERS)
    return {name: Corpus(lambda name=name: _STARTERS[name](seed)) for name in chosen}


def declaration(*languages: str) -> dict[str, Corpus]:
    """The Universal Declaration of Human Rights by language, each under its name in English: what
    experts prefer one language where all say the same?

    ``languages``: codes of two letters (ISO 639-1), such as "fr"; without any, all 150.

    Raises StudyError for a language that is not there.
    """
    known = texts.declaration()
    if unknown := set(languages) - known.keys():
        raise StudyError(f"no declaration in {min(unknown)!r}; there are {', '.join(known)}")
    return {
        known[code]["name"]: Corpus(lambda parts=known[code]["parts"]: _few_articles(parts))
        for code in languages or known
    }


def teaching(model, documents: int = 40, seed: int = 0) -> dict[str, Corpus]:
    """What the teaching model was made for, with its answers: chat, languages, arithmetic, code,
    needle, tools, image and audio, as ``ModelInputs``.

    ``documents``: of each. They are drawn as those that its training leaves out for tests.

    Raises StudyError for less than one document.
    """
    if documents < 1:
        raise StudyError(f"corpora of {documents} documents; give a number from 1 on")
    return {
        name: Corpus(lambda makers=makers: _lessons(model, makers, documents, seed))
        for name, makers in _LESSONS.items()
    }


#: The teaching data's makers, but for those that need scikit-learn's digits or a voice.
_LESSONS = {
    "chat": ("chat",),
    "languages": ("count", "sentence"),
    "arithmetic": ("sums", "two_step"),
    "code": ("code",),
    "needle": ("needle",),
    "tools": ("tools", "considered"),
    "image": ("scene",),
    "audio": ("tones",),
}


def _lessons(model, makers, documents: int, seed: int) -> Iterator:
    from ..processing import load_audio, load_image
    from ..processing.inputs import expand
    from ..teaching import data, sounds

    rng = np.random.default_rng(seed)
    for number in range(documents):
        sample = data.make(makers[number % len(makers)], rng, "test")
        ids = model.tokenizer.encode("".join(text for text, _ in sample.parts), allow_special=True)
        media = [load_image(picture, model) for picture in sample.images]
        media += [load_audio(clip, model, rate=sounds.RATE) for clip in sample.audio]
        yield expand(ids, media, model.config)


# What is there already


def _modules() -> Iterator[str]:
    """The standard library's modules, tests left out, in the order of their names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3"}
    for path in sorted(root.rglob("*.py")):
        if left_out.isdisjoint(path.relative_to(root).parts):
            try:
                yield path.read_text("utf-8")
            except (OSError, UnicodeDecodeError):
                continue


def _code(seed: int) -> Iterator[str]:
    for text in _modules():
        if len(text) > 400:
            yield text[:6000]


def _manual(seed: int) -> Iterator[str]:
    for text in _modules():
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            continue
        whole = "\n\n".join(said for said in _docstrings(tree) if ">>>" not in said)
        if len(whole) > 400:
            yield whole[:6000]


def _docstrings(node: ast.AST) -> Iterator[str]:
    """Of a module, its classes and their functions, in the order of the text."""
    if said := ast.get_docstring(node):
        yield said
    for inner in node.body:
        if isinstance(inner, ast.ClassDef | ast.FunctionDef):
            yield from _docstrings(inner)


def _law(seed: int) -> Iterator[str]:
    seen = set()
    for package in sorted(distributions(), key=lambda found: str(found.metadata["Name"]).lower()):
        for file in sorted(package.files or ()):
            name = file.name.upper()
            if not name.startswith(("LICENSE", "LICENCE", "COPYING")) or name.endswith(".PY"):
                continue
            try:
                text = Path(package.locate_file(file)).read_text("utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            if len(text) > 400 and text not in seen:
                seen.add(text)
                yield text[:12_000]


def _languages(seed: int) -> Iterator[str]:
    every = [_few_articles(language["parts"]) for language in texts.declaration().values()]
    for some in zip(*every):
        yield from some


def _few_articles(parts: list[str]) -> Iterator[str]:
    for first in range(0, len(parts), ARTICLES):
        yield "\n".join(parts[first : first + ARTICLES])


def _novel(seed: int) -> Iterator[str]:
    page: list[str] = []
    for paragraph in texts.novel().split("\n\n"):
        page.append(paragraph.strip())
        if sum(map(len, page)) >= PAGE:
            yield "\n\n".join(filter(None, page))
            page = []
    yield "\n\n".join(page)


# What is written


def _written(write: Callable) -> Callable[[int], Iterator]:
    def documents(seed: int) -> Iterator:
        from ..teaching import words

        rng = np.random.default_rng(seed)
        for _ in range(DOCUMENTS):
            yield write(rng, words)

    return documents


def _arithmetic(rng, words) -> str:
    lines = []
    for _ in range(40):
        a, b, c = (int(x) for x in rng.integers(2, 10 ** int(rng.integers(2, 5)), 3))
        said = (
            f"{a} + {b} = {a + b}",
            f"{a} - {b} = {a - b}",
            f"{a} * {b} = {a * b}",
            f"({a} + {b}) * {c} = {(a + b) * c}",
            f"{a * b} / {b} = {a}",
        )
        lines.append(said[int(rng.integers(len(said)))])
    return "\n".join(lines)


def _record(rng, words) -> dict:
    return {
        "id": int(rng.integers(10**6)),
        "name": str(rng.choice(words.PEOPLE)),
        "city": str(rng.choice(words.CITIES)),
        "active": bool(rng.random() < 0.5),
        "score": round(float(rng.random()), 3),
        "items": [
            {"item": str(rng.choice(words.NOUNS)), "count": int(rng.integers(1, 30))}
            for _ in range(int(rng.integers(1, 4)))
        ],
    }


def _json(rng, words) -> str:
    records = [_record(rng, words) for _ in range(8)]
    return json.dumps({"page": int(rng.integers(50)), "results": records}, indent=2)


def _table(rng, words) -> str:
    columns = ["name", "city", *rng.choice(words.NOUNS, 3, replace=False)]
    rows = [
        [str(rng.choice(words.PEOPLE)), str(rng.choice(words.CITIES)), *rng.integers(0, 900, 3)]
        for _ in range(20)
    ]
    if rng.random() < 0.5:
        return "\n".join(",".join(map(str, row)) for row in [columns, *rows])
    rule = ["---"] * len(columns)
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [columns, rule, *rows])


def _dialogue(rng, words) -> list[dict]:
    """A conversation about where things are; every answer follows from what was said."""
    things = rng.choice(words.NOUNS, 6, replace=False)
    owners = rng.choice(words.PEOPLE, 6, replace=False)
    places = rng.choice(words.CITIES, 6, replace=False)
    said = [f"{who} has the {what} in {where}." for who, what, where in zip(owners, things, places)]
    messages = [
        {"role": "system", "content": "You answer questions about who has what."},
        {"role": "user", "content": "Please remember this. " + " ".join(said)},
        {"role": "assistant", "content": "I will remember who has which thing, and where it is."},
    ]
    for _ in range(12):
        i = int(rng.integers(6))
        asked, answer = (
            (
                f"Where is the {things[i]}?",
                f"The {things[i]} is in {places[i]}, {owners[i]} has it.",
            ),
            (f"Who has the {things[i]}?", f"{owners[i]} has the {things[i]}, in {places[i]}."),
            (f"What does {owners[i]} have?", f"{owners[i]} has the {things[i]}."),
        )[int(rng.integers(3))]
        messages += [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": answer},
        ]
    return messages


_STARTERS: dict[str, Callable[[int], Iterator]] = {
    "code": _code,
    "manual": _manual,
    "prose": _novel,
    "law": _law,
    "languages": _languages,
    "arithmetic": _written(_arithmetic),
    "json": _written(_json),
    "tables": _written(_table),
    "dialogues": _written(_dialogue),
}
