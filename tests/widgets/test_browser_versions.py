"""The oldest browsers that the widgets are written for, held against what the front end uses."""

import re
from pathlib import Path

import pytest

from gemma4_mlx.widgets.base import STATIC

README = Path(__file__).parents[2] / "README.md"
BROWSERS = ("Safari", "Firefox", "Chrome")
OLDEST = (16.4, 121, 111)

#: Feature: (pattern, first versions). From MDN's compatibility tables. What a feature of the web
#: needs that is not here is older than every version above.
USED = {
    "container queries": (r"@container|container-type", (16.0, 110, 105)),
    "color-mix()": (r"color-mix\(", (16.2, 113, 111)),
    ":has()": (r":has\(", (15.4, 121, 105)),
    "fullscreen": (r"requestFullscreen|:fullscreen", (16.4, 64, 71)),
    "Array.prototype.at": (r"\.at\(", (15.4, 90, 92)),
    "structuredClone": (r"structuredClone\(", (15.4, 94, 98)),
    "createImageBitmap": (r"createImageBitmap\(", (15.0, 93, 50)),
    "MediaRecorder": (r"MediaRecorder\(", (14.1, 25, 47)),
    "logical assignment": (r"\|\|=|\?\?=|&&=", (14.0, 79, 85)),
    ":focus-visible": (r":focus-visible", (15.4, 85, 86)),
    "accent-color": (r"accent-color", (15.4, 92, 93)),
    "overscroll-behavior": (r"overscroll-behavior", (16.0, 59, 63)),
    "aspect-ratio": (r"aspect-ratio:", (15.0, 89, 88)),
    "inset": (r"\binset: ", (14.1, 66, 87)),
    "lookbehind": (r"\(\?<[=!]", (16.4, 78, 62)),
    "findLast": (r"\.findLast(Index)?\(", (15.4, 104, 97)),
    "toSorted and others": (r"\.(toSorted|toReversed|toSpliced|with)\(", (16.0, 115, 110)),
    "dvh and others": (r"\d(d|s|l)v[hw]\b", (15.4, 101, 108)),
    "Object.hasOwn": (r"Object\.hasOwn\(", (15.4, 92, 93)),
    "dialog": (r"showModal\(", (15.4, 98, 37)),
    "OffscreenCanvas": (r"OffscreenCanvas\(", (16.4, 105, 69)),
    "CompressionStream": (r"(De)?[cC]ompressionStream\(", (16.4, 113, 80)),
    "private members": (r"^\s+(async |get )?#\w+\(", (15.0, 90, 84)),
    "AbortSignal.timeout": (r"AbortSignal\.timeout", (16.0, 100, 103)),
}
#: Newer than the oldest browsers: not to be used without raising OLDEST, or something beside it.
TOO_NEW = {
    "AbortSignal.any": r"AbortSignal\.any",
    "popover": r"showPopover\(|:popover-open",  # showPopover?.() does without where it is not there
    "nesting in CSS": r"^\s+&[ :.\[>]",
    "text-wrap": r"text-wrap",
    "light-dark()": r"light-dark\(",
    "field-sizing": r"field-sizing",
    "content-visibility": r"content-visibility",
    "starting style": r"@starting-style",
    "@scope": r"@scope",
    "anchors": r"anchor-name|position-anchor",
    "checkVisibility": r"checkVisibility\(",
    "Promise.withResolvers": r"Promise\.(withResolvers|try)",
    "groupBy": r"(Object|Map)\.groupBy",
    "Array.fromAsync": r"Array\.fromAsync",
    "methods of sets": r"\.(isSubsetOf|isSupersetOf|symmetricDifference|intersection|union)\(",
    "iterator helpers": r"\.(values|keys|entries)\(\)\.(map|filter|take|drop|toArray)\(",
    "base64 of bytes": r"fromBase64|toBase64\(",
    "URL.canParse": r"URL\.(canParse|parse)\(",
    "flag v": r"/[a-z]*v[a-z]*\.(test|exec)\(",
    "zoom": r"[{;\s]zoom:\s*[\d.]",
    "requestIdleCallback": r"requestIdleCallback",
    "scrollend": r"\"scrollend\"",
    "custom highlights": r"new Highlight\(",
    "view transitions": r"startViewTransition",
}
FILES = sorted(f for f in STATIC.iterdir() if f.suffix in (".js", ".css"))
SOURCES = {f.name: f.read_text(encoding="utf-8") for f in FILES}


def found(pattern):
    return [name for name, text in SOURCES.items() if re.search(pattern, text, re.M)]


@pytest.mark.parametrize("feature", TOO_NEW)
def test_nothing_newer_is_used(feature):
    assert not found(TOO_NEW[feature]), f"{feature} needs newer browsers than {OLDEST}"


@pytest.mark.parametrize("feature", USED)
def test_the_stated_versions_have_what_is_used(feature):
    pattern, needed = USED[feature]
    if found(pattern):
        assert all(a <= b for a, b in zip(needed, OLDEST)), f"{feature} needs {needed}"


def test_the_readme_states_them():
    said = ", ".join(f"{name} {version:g}" for name, version in zip(BROWSERS, OLDEST))
    assert said in README.read_text(encoding="utf-8")
