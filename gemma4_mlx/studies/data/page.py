"""An atlas as one web page: maps, and a card for each expert. No scripts, no network."""

import base64
import html
import struct
import zlib
from dataclasses import dataclass
from importlib import resources

import numpy as np

from .contexts import SORTS, Context
from .labels import Lifts
from .vocabulary import Vocabulary

#: Bytes that a page takes at most, about: examples are left out where more would be needed.
PAGE_BYTES = 10_000_000
#: Examples of each expert, at most.
EXAMPLES = 6
#: log2 of the factor at the ends of the colours.
ENDS = 3
_LOW, _MIDDLE, _HIGH = (np.array(c, float) for c in ((33, 102, 172), (247,) * 3, (178, 24, 43)))
_NEVER = (150, 150, 150)


def atlas_page(atlas) -> str:
    """The page's HTML, as much of the examples as fits in :data:`PAGE_BYTES`."""
    page = _page(atlas, EXAMPLES)
    if (size := len(page.encode())) > PAGE_BYTES:
        bare = _page(atlas, 0)
        room = (PAGE_BYTES - len(bare.encode())) * EXAMPLES // (size - len(bare.encode()))
        page = _page(atlas, room) if room > 0 else bare
    return page


def _page(atlas, examples: int) -> str:
    subject, lifts = atlas.counts.subject, atlas.lifts()
    even = subject.k / subject.num_experts
    with np.errstate(divide="ignore"):
        load = np.log2(atlas.load() / even)
    maps = [("Load", np.where(atlas.counts.all_counts > 0, load, np.nan))]
    maps += [(label, lifts.lift[:, g]) for g, label in enumerate(atlas.labels)]
    shown = _Shown(lifts, lifts.found(), atlas.vocabulary(), atlas.evenness(), examples)
    documents = zip(atlas.labels, atlas.counts["documents"], atlas.counts["tokens"])
    read = "; ".join(f"{label}: {d:,} documents, {n:,} tokens" for label, d, n in documents)
    remarks = [f"{label}: {said}" for label, all_ in atlas.remarks.items() for said in all_]
    values = {
        "TITLE": _text(f"Atlas of experts: {atlas.model.get('source') or 'a model'}"),
        "SUMMARY": _text(f"{atlas.tokens:,} tokens. {read}."),
        "REMARKS": _remarks(remarks),
        "FIRST": str(atlas.layers[0]),
        "EXPERTS": str(subject.num_experts),
        "MAPS": "".join(_map(name, values) for name, values in maps),
        "LAYERS": "".join(_layer(atlas, i, shown) for i in range(len(load))),
    }
    page = resources.files(__package__).joinpath("page.html").read_text("utf-8")
    parts = page.split("@")
    # Every second part is a name; what is put in its place is not looked through again.
    return "".join(values.get(part, part) if i % 2 else part for i, part in enumerate(parts))


def _remarks(said: list[str]) -> str:
    if not said:
        return ""
    items = "".join(f"<li>{_text(each)}" for each in said)
    return (
        f"<details><summary>{len(said)} remarks on the corpora</summary><ul>{items}</ul></details>"
    )


def _map(name: str, log2: np.ndarray) -> str:
    part = np.clip(np.nan_to_num(log2, nan=0.0) / ENDS, -1, 1)[..., None]
    colours = np.where(
        part < 0, _MIDDLE + (_MIDDLE - _LOW) * part, _MIDDLE + (_HIGH - _MIDDLE) * part
    )
    colours = np.where(np.isnan(log2)[..., None], _NEVER, colours).round().astype(np.uint8)
    return (
        f'<figure><img class="map" alt="{_text(name)} of every expert" src="{_png(colours)}">'
        f"<figcaption>{_text(name)}</figcaption></figure>"
    )


@dataclass(frozen=True)
class _Shown:
    """What the cards show, worked out once; ``examples``: of each expert."""

    lifts: Lifts
    found: np.ndarray
    vocabulary: Vocabulary
    evenness: np.ndarray
    examples: int


def _layer(atlas, i: int, shown: _Shown) -> str:
    counts, layer = atlas.counts.all_counts[i], atlas.layers[i]
    order = np.argsort(-counts, kind="stable")
    used = [e for e in order if counts[e]]
    cards = "".join(_expert(atlas, i, int(e), shown) for e in used)
    return (
        f"<details{' open' if i == 0 else ''}><summary><b>Layer {layer}</b> "
        f"{len(used)} experts in use, evenness {shown.evenness[i]:.2f}</summary>{cards}</details>"
    )


def _expert(atlas, i: int, e: int, shown: _Shown) -> str:
    lifts, examples, layer = shown.lifts, shown.examples, atlas.layers[i]
    subject = atlas.counts.subject
    times = atlas.counts.all_counts[i, e] / atlas.tokens / (subject.k / subject.num_experts)
    order = np.argsort(-lifts.lift[i, :, e], kind="stable")
    tags = "".join(
        f'<span class="tag">{_text(atlas.labels[g])} {_factor(lifts.lift[i, g, e])}</span>'
        for g in order
        if shown.found[i, g, e]
    )
    lines = [_tokens("reads", [r["id"] for r in shown.vocabulary.top(layer, e, 8)], atlas)]
    for name, ids in (("promotes", atlas.promoted), ("suppresses", atlas.suppressed)):
        if ids is not None:
            lines.append(_tokens(name, [id for id in ids[i, e].tolist() if id >= 0], atlas))
    half = -(-examples // 2)
    some = atlas.examples(layer, e, half)
    strongest, sampled = ([c for c in some if c.sort == sort] for sort in SORTS)
    contexts = map(_context, strongest + sampled[: examples - half])
    return (
        f"<details><summary><b>Expert {e}</b> load {times:.2f} times even {tags}</summary>"
        f'<div class="card">{"".join(lines)}{"".join(contexts)}</div></details>'
    )


def _tokens(what: str, ids: list[int], atlas) -> str:
    if not ids:
        return ""
    said = "".join(f"<code>{_text(_visible(atlas.text(id)))}</code>" for id in ids)
    return f"<p>{what} {said}</p>"


def _context(context: Context) -> str:
    picture = ""
    if context.picture is not None:
        left, top, right, bottom = (100 * side for side in context.box)
        place = f"left:{left:.1f}%;top:{top:.1f}%;width:{right - left:.1f}%;"
        picture = (
            f'<span class="picture"><img alt="" src="{_png(context.picture)}">'
            f'<i style="{place}height:{bottom - top:.1f}%"></i></span>'
        )
    return (
        f'<div class="context">{picture}{_text(context.before)}<mark>{_text(context.text)}</mark>'
        f'{_text(context.after)} <span class="muted">{_text(context.label)}, {context.sort}, '
        f"gate {context.gate:.2f}</span></div>"
    )


def _factor(log2: float) -> str:
    """-1 -> "× 0.50"; never chosen: "× 0"."""
    factor = 2.0**log2
    return f"× {factor:.1f}" if factor >= 1 else f"× {factor:.2f}" if factor else "× 0"


def _visible(text: str) -> str:
    return text.replace("\n", "⏎").replace("\t", "⇥") or "(nothing)"


def _text(text) -> str:
    return html.escape(str(text))


def _png(pixels: np.ndarray) -> str:
    """A picture (h, w, 3) uint8 as a ``data:`` address (https://www.w3.org/TR/png-3/)."""
    height, width = pixels.shape[:2]
    lines = np.zeros((height, 1 + 3 * width), np.uint8)  # filter 0 before every line
    lines[:, 1:] = pixels.reshape(height, -1)

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    whole = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    whole += chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(whole).decode()
