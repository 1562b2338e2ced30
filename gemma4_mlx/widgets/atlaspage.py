"""An atlas as one web page that needs nothing but a browser: ``atlas.to_html``.

The page is the Atlas view over recorded answers (:mod:`.snapshot`): the whole map by everything it
can be coloured by, the cards of all experts that were used, with as many contexts as
:data:`PAGE_BYTES` allow, and who works on each kind of tokens. A text is looked for in the cards.
Experts alike are left to the notebook.
"""

from __future__ import annotations

import html
import json
from typing import Any

from ..studies.data.contexts import KEPT, SORTS
from .atlas import Atlas
from .base import join_css
from .snapshot import Snapshot, encoded, page_of, request_key

#: Bytes that a page takes at most.
PAGE_BYTES = 10_000_000


def atlas_page(atlas: Any) -> str:
    """The page's HTML. Raises StudyError for an atlas without documents."""
    view = Atlas(atlas)
    snapshot = Snapshot.of(view, title="Expert atlas", requests=view.overall_requests())
    title = f"Atlas of experts: {atlas.model.get('source') or 'a model'}"
    head = f'<header class="g4-pagehead"><h1>{html.escape(title)}</h1></header>'
    css = join_css("tracepage")
    room = PAGE_BYTES - len(encoded(page_of([snapshot], title, head, css)))
    for card in fitting([view.source.card(*pair) for pair in view.by_clarity()], view, room):
        asked = {"type": "card", "layer": card["layer"], "expert": card["expert"]}
        snapshot.answers[request_key(asked)] = {"content": card}
        seen = [each["picture"] for each in card["contexts"] if "picture" in each]
        snapshot.record(view, [{"type": "picture", "key": key} for key in seen])
    return page_of([snapshot], title, head, css)


def fitting(cards: list[dict], view: Atlas, room: int) -> list[dict]:
    """The cards with as many contexts of each sort as fit in ``room`` bytes, the same for all; the
    first ones where not even all cards without contexts fit."""
    bare = [_bytes({**card, "contexts": []}) + 60 for card in cards]
    total, most, known = sum(bare), 0, set()
    while most < KEPT:
        for card in cards:
            for context in _nth(card["contexts"], most):
                total += _bytes(context) + 1
                if (key := context.get("picture")) and key not in known:
                    known.add(key)
                    total += len(view.source.pictures[key]) * 4 // 3 + 80
        if total > room:
            break
        most += 1
    kept, left = [], room
    for card, size in zip(cards, bare):
        left -= size
        if left < 0:
            break
        few = [one for rank in range(most) for one in _nth(card["contexts"], rank)]
        kept.append({**card, "contexts": sorted(few, key=lambda one: SORTS.index(one["sort"]))})
    return kept


def _nth(contexts: list[dict], rank: int) -> list[dict]:
    """The contexts of that rank, one of each sort."""
    some = ([one for one in contexts if one["sort"] == sort] for sort in SORTS)
    return [each[rank] for each in some if rank < len(each)]


def _bytes(value: Any) -> int:
    """Bytes in a page: "<" is written as its escape."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return len(encoded(text)) + 5 * text.count("<")
