"""Groups of tokens whose experts can be compared: by part of the chat, role, script or word kind.

"script" is the writing system of the characters (Latin, Han, Arabic, ...), with fenced code as a
group of its own. It is not the language: English and Spanish are both Latin.
"""

import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ...errors import TraceError
from .tokens import KINDS, Tokens

GROUPINGS = ("script", "kind", "part", "role")

#: Role of a token in the trace -> name of its part of the conversation.
PART_NAMES = {"model": "answer", "assistant": "answer", "": "text"}
MEDIA = ("image", "video", "audio")

#: First word of a character's Unicode name -> script. Letters of others are "other letters".
_SCRIPTS = {
    name: name.title()
    for name in (
        "LATIN GREEK CYRILLIC ARMENIAN HEBREW ARABIC SYRIAC DEVANAGARI BENGALI GURMUKHI GUJARATI "
        "ORIYA TAMIL TELUGU KANNADA MALAYALAM SINHALA THAI LAO TIBETAN MYANMAR GEORGIAN HANGUL "
        "ETHIOPIC CHEROKEE KHMER MONGOLIAN"
    ).split()
} | {"CJK": "Han", "HIRAGANA": "Kana", "KATAKANA": "Kana", "IDEOGRAPHIC": "Han"}
_WITHOUT_BLANKS = {"Han", "Kana", "Thai", "Lao", "Khmer", "Myanmar"}

#: A fenced block: from a line that opens it to the line that closes it, or to the end.
_FENCE = re.compile(r"^[ \t]*```[^\n]*\n.*?(?:^[ \t]*```[ \t]*\n?|\Z)", re.M | re.S)


@dataclass(frozen=True)
class Groups:
    """Every token in one of a few groups.

    ``names``: the groups, most tokens first. ``codes`` (n,) uint8: index of each token's group.
    ``tokens`` (groups,): how many tokens each has.
    """

    by: str
    names: tuple[str, ...]
    codes: np.ndarray
    tokens: np.ndarray


def token_groups(tokens: Tokens, by: str = "script") -> Groups:
    """Tokens by "script", "kind" (word, number, ...), "part" of the conversation or "role".

    Pictures, sounds and control tokens are groups of their own in the first two; "part" is the role
    with pictures and sounds apart.

    Raises TraceError for another ``by``.
    """
    if by not in GROUPINGS:
        raise TraceError(f"tokens are grouped by {', '.join(GROUPINGS)}; not by {by!r}")
    labels = {"script": scripts, "kind": word_kinds, "part": part_names, "role": _roles}[by](tokens)
    count: dict[str, int] = {}
    for label in labels:
        count[label] = count.get(label, 0) + 1
    names = sorted(count, key=lambda name: (-count[name], name))[:255]
    code = {name: i for i, name in enumerate(names)}
    codes = np.fromiter((code.get(label, 254) for label in labels), np.uint8, len(labels))
    return Groups(by, tuple(names), codes, np.bincount(codes, minlength=len(names)))


def part_names(tokens: Tokens) -> list[str]:
    """The part of the conversation of every token; soft tokens are parts of their own."""
    media = {i: kind for i, kind in enumerate(KINDS) if kind in MEDIA}
    return [
        media.get(kind) or PART_NAMES.get(role, role)
        for kind, role in zip(tokens.kinds.tolist(), tokens.roles)
    ]


def _roles(tokens: Tokens) -> list[str]:
    return [role or "none" for role in tokens.roles]


def scripts(tokens: Tokens) -> list[str]:
    """The script of every token's first letter; "code" inside fences, "no letters" without one."""
    known: dict[str, str] = {}
    named = _not_text(tokens)
    found = []
    for text, other, code in zip(tokens.texts, named, in_code(tokens).tolist()):
        if other or code:
            found.append(other or "code")
            continue
        if text not in known:
            letter = next((c for c in text if c.isalpha()), None)
            known[text] = "no letters" if letter is None else script_of(letter)
        found.append(known[text])
    return found


def script_of(letter: str) -> str:
    """The writing system of one letter.

    >>> script_of("a"), script_of("ж"), script_of("語")
    ('Latin', 'Cyrillic', 'Han')
    """
    words = unicodedata.name(letter, "").replace("FULLWIDTH ", "").replace("HALFWIDTH ", "")
    return _SCRIPTS.get(words.split(" ")[0].split("-")[0], "other letters")


def word_kinds(tokens: Tokens) -> list[str]:
    """What each token is in its sentence: a word's start, its continuation, a number, ..."""
    known: dict[str, tuple[str, bool, bool]] = {}  # kind, may continue a word, ends in a letter
    named = _not_text(tokens)
    found, inside = [], False
    for text, other in zip(tokens.texts, named):
        if other:
            found.append(other)
            inside = False
            continue
        if text not in known:
            known[text] = _word_kind(text)
        kind, continues, ends = known[text]
        found.append("rest of a word" if continues and inside else kind)
        inside = ends
    return found


def text_kind(text: str) -> str:
    """What a token is by its text alone: "numbers", "punctuation", "symbols", "blanks", or the
    script of a word.

    >>> text_kind(" 42"), text_kind(" день"), text_kind("\\n")
    ('numbers', 'Cyrillic', 'blanks')
    """
    kind = _word_kind(text)[0]
    if kind == "word":
        letter = next((c for c in text if c.isalpha()), None)
        return "other letters" if letter is None else script_of(letter)
    return kind if kind == "punctuation" else f"{kind}s"


def _word_kind(text: str) -> tuple[str, bool, bool]:
    core = text.strip()
    if not core:
        return "blank", False, False
    ends = text[-1].isalpha() and script_of(text[-1]) not in _WITHOUT_BLANKS
    category = unicodedata.category(core[0])[0]
    if category in "LM":
        return "word", text[0] == core[0], ends
    return {"N": "number", "P": "punctuation"}.get(category, "symbol"), False, ends


def _not_text(tokens: Tokens) -> list[str | None]:
    names = [None if kind == "text" else kind for kind in KINDS]
    names[KINDS.index("special")] = "control tokens"
    return [names[kind] for kind in tokens.kinds.tolist()]


def in_code(tokens: Tokens) -> np.ndarray:
    """Which tokens lie inside a block fenced by three backticks: bool (n,).

    A fence ends with its part of the conversation at the latest.
    """
    names = part_names(tokens)
    mask = np.zeros(len(names), bool)
    cuts = [0, *(i for i in range(1, len(names)) if names[i] != names[i - 1]), len(names)]
    for start, stop in pairwise(cuts):
        texts = tokens.texts[start:stop]
        if not any("`" in text for text in texts):
            continue
        begins = np.cumsum([0, *map(len, texts[:-1])])
        for match in _FENCE.finditer("".join(texts)):
            first, last = np.searchsorted(begins, match.span())
            mask[start + first : start + last] = True
    return mask
