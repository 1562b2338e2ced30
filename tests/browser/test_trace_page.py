"""``trace.to_html`` in a real page: stretches of the text stand where single tokens do not fit."""

import re

from synthetic import make_routing, make_tokens

from gemma4_mlx.tracing import Trace
from gemma4_mlx.widgets import tracepage

N = 3000


def test_tokens_whose_routes_do_not_fit_show_their_stretch(page, tmp_path, monkeypatch):
    monkeypatch.setattr(tracepage, "PAGE_BYTES", 0)  # one page of routes, the first, is always kept
    tokens = make_tokens(N, media=False)
    path = Trace(tokens, routing=make_routing(tokens)).to_html(tmp_path / "page.html")
    page.goto(path.as_uri())
    root = page.locator(".g4-routing")
    note = root.get_by_text("the page holds stretches")
    root.locator(".g4-word[data-i='5']").click()
    page.wait_for_function("document.querySelector('.g4-striptitle').textContent.includes('5')")
    assert not note.is_visible()
    search = root.get_by_label("Find text in the trace")
    word = tokens.texts[2500].strip()
    search.fill(word)
    for _ in range(200):  # to a hit whose routes are not there
        search.press("Enter")
        root.locator(".g4-tokenview [role=status]", has_text=re.compile(r"\d+ of \d+")).wait_for()
        if note.is_visible():
            break
    first, last = (int(n.replace(",", "")) for n in re.findall(r"[\d,]*\d", note.inner_text()))
    selected = root.locator(".g4-word.g4-selected")
    assert first <= int(selected.get_attribute("data-i")) <= last < N and last - first < 20
    page.wait_for_function(
        "document.querySelector('.g4-word.g4-selected').style.backgroundColor !== ''"
    )
    assert root.locator(".g4-problem:visible").count() == 0 and not page.errors
