"""Where a character ends: what a reader calls one character may be many code points.

``é`` may be ``e`` and an accent, a Thai syllable a consonant with two marks above it, a family
emoji seven code points joined by invisible ones. Text that streams in must not be cut inside one.
The rules are the grapheme clusters of Unicode Standard Annex 29, in the simplified form that
`unicodedata` can decide: marks, joiners, variation selectors and skin tones stay with what is
before them, and a virama ties the consonant that follows.
"""

import unicodedata
from itertools import pairwise

_JOINER = "\u200d"
# Viramas that form conjuncts (Indic_Syllabic_Category=Virama of the scripts where UAX 29, GB9c,
# applies, and their neighbours that write conjuncts the same way).
_VIRAMAS = frozenset("\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d4d\u0dca\u1039\u17d2")
_TRANSPARENT = ("\ufe0e", "\ufe0f")


def _is_regional(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"


def _extends(char: str) -> bool:
    """True if `char` belongs to the character before it."""
    if char < "\u0300":
        return False
    return (
        unicodedata.category(char) in ("Mn", "Me", "Mc")
        or char in (_JOINER, "\u200c", *_TRANSPARENT)
        or "\U0001f3fb" <= char <= "\U0001f3ff"  # skin tones
        or "\U000e0020" <= char <= "\U000e007f"  # tags: flags of regions
        or "\u1160" <= char <= "\u11ff"  # vowels and finals of Korean syllables written in parts
    )


def _joined(text: str, i: int) -> bool:
    """True if there is no character boundary between ``text[i - 1]`` and ``text[i]``."""
    previous, char = text[i - 1], text[i]
    if previous == "\r" and char == "\n":
        return True
    if unicodedata.category(previous) == "Cc":
        return False
    if _extends(char):
        return True
    if previous == _JOINER:
        return True
    if previous in _VIRAMAS and unicodedata.category(char) == "Lo":
        return True
    if "\u1100" <= previous <= "\u115f" and "\u1100" <= char <= "\u115f":
        return True
    if _is_regional(previous) and _is_regional(char):
        run = 0
        while run < i and _is_regional(text[i - 1 - run]):
            run += 1
        return run % 2 == 1
    return False


def characters(text: str) -> list[str]:
    """The text cut into what a reader calls characters; joined they are the text again."""
    if not text:
        return []
    cuts = [0, *(i for i in range(1, len(text)) if not _joined(text, i)), len(text)]
    return [text[a:b] for a, b in pairwise(cuts)]


def last_character(text: str) -> int:
    """Length in code points of the last character (0 for an empty text)."""
    if not text:
        return 0
    i = len(text) - 1
    while i > 0 and _joined(text, i):
        i -= 1
    return len(text) - i


def incomplete_suffix(text: str) -> int:
    """Length of the last character if it announces that it goes on, else 0.

    A joiner and a virama announce a following letter, the first regional indicator the second.
    """
    if not text or text[-1] < "\u0300":
        return 0
    last = text[-1]
    if last == _JOINER or last in _VIRAMAS:
        return last_character(text)
    if _is_regional(last):
        run = 0
        while run < len(text) and _is_regional(text[-1 - run]):
            run += 1
        return run % 2
    return 0


def open_suffix(text: str) -> int:
    """Length of a last character to which a following code point could still be added.

    Spaces, line breaks and ASCII punctuation are never waited for.
    """
    if not text:
        return 0
    last = text[-1]
    if last == "\r":  # a line feed may follow
        return 1
    if last.isspace() or (last < "\x7f" and not last.isalnum() and last not in "#*"):
        return 0
    return last_character(text)
