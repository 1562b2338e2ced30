"""The exported page: self-contained, safe with any text, the widgets' views alive from a file."""

import base64
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from waiting import PATIENCE

import gemma4_mlx as g4
from gemma4_mlx.errors import TraceError
from gemma4_mlx.tracing import AttentionPlan, Trace

TEXT = 'the drum code </script><img src=x onerror=alert(1)> <!-- "quoted" \u2028 &amp;'


@pytest.fixture(scope="module")
def trace():
    return g4.trace(g4.load(), TEXT, attention=AttentionPlan(bins=24))


@pytest.fixture(scope="module")
def page(trace, tmp_path_factory):
    return trace.to_html(tmp_path_factory.mktemp("page") / "trace.html", resolution=16)


def data_of(page):
    """The page, and what it recorded: request -> answer, of each view and of both."""
    html = page.read_text("utf-8")
    pieces = re.findall(
        r'<script type="application/json" class="g4-data">(.*?)</script>', html, re.S
    )
    data = json.loads("".join(pieces))
    return html, [view["answers"] for view in data["views"]], data["shared"]


def answer(answers, **request):
    from gemma4_mlx.widgets.snapshot import request_key

    found = answers[request_key(request)]
    return found["content"], base64.b64decode(found.get("buffer", ""))


def test_one_file_without_addresses(page):
    html, *_ = data_of(page)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[1]
    assert policy.startswith("default-src 'none'") and "http" not in policy
    # Two modules, what runs them, and the data: nothing in the text ends or begins an element.
    assert html.count("</script>") == html.count("<script ")
    assert html.count('<script type="module">') == 3
    assert "<img" not in html and not re.search(r"<link|<iframe|\bsrc=\"|@import", html)


def test_the_page_holds_the_trace(page, trace):
    _, (attention, routing), shared = data_of(page)
    n = len(trace)
    texts, _ = answer(shared, type="tokens", start=0, stop=n)
    assert "".join(texts["text"]) == trace.tokens.text == "<bos>" + TEXT
    _, bulk = answer(routing, type="routes", start=0, stop=n, which="a")
    shape = trace.routing.experts.shape
    cells = np.prod(shape)
    experts = np.frombuffer(bulk[:cells], np.uint8).reshape(shape)
    assert np.array_equal(experts, trace.routing.experts)
    shares = np.frombuffer(bulk[cells:], np.uint8).reshape(shape) / 255
    assert np.abs(shares[2] - trace.routing.gate(trace.routing.layers[2])).max() <= 1 / 255
    for layer in trace.attention.layers:  # every head: its picture and its links
        facts, bulk = answer(attention, type="pictures", layer=layer, side=16, stat="mean")
        pictures = np.frombuffer(bulk, np.uint8).reshape(-1, facts["rows"], facts["columns"])
        assert facts["heads"] == list(trace.attention.heads(layer)) and facts["rows"] <= 16
        assert (pictures.max(axis=(1, 2)) == 255).all()
        facts, bulk = answer(attention, type="links", layer=layer)
        size = len(facts["heads"]) * facts["count"]
        places, weights = np.frombuffer(bulk, "<i4", 2 * size), np.frombuffer(bulk, "<f4")[-size:]
        best = trace.attention.links(layer, facts["heads"][0])[0]
        assert (places[0], places[size], weights[0]) == (best.query, best.key, best.weight)
    assert not [a for view in (attention, routing, shared) for a in view.values() if "error" in a]


def test_parts_may_be_missing(trace, tmp_path):
    only_tokens = Trace(trace.tokens, model={"source": "<b>a</b>"}, interventions=("<i>x</i>",))
    html, views, _ = data_of(only_tokens.to_html(tmp_path / "a.html"))
    assert views == [] and "&lt;img src=x" in html and "<b>" not in html and "<i>" not in html
    bare = AttentionPlan(overview=False, summaries=False, links=0)
    without = g4.trace(g4.load(), "drum", attention=bare, routing=None)
    assert data_of(without.to_html(tmp_path / "b.html"))[1] == []
    no_links = g4.trace(g4.load(), "drum", attention=AttentionPlan(links=0), routing=None)
    (attention,) = data_of(no_links.to_html(tmp_path / "c.html"))[1]
    assert attention and not [a for a in attention.values() if "error" in a]
    with pytest.raises(TraceError, match="shows nothing"):
        trace.to_html(tmp_path / "d.html", resolution=0)


def test_in_a_browser(page, trace):
    """Opened from disk: drawn, no errors, no requests, one selection for both views."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium on this machine")

    def look():
        with playwright.sync_playwright() as p:
            browser = p.chromium.launch(executable_path=chromium)
            tab, problems, asked = browser.new_page(), [], []
            tab.on("pageerror", lambda error: problems.append(str(error)))
            tab.on("console", lambda message: problems.append(message.text))
            tab.on("request", lambda request: asked.append(request.url))
            tab.set_default_timeout(1000 * PATIENCE)
            tab.goto(page.as_uri())
            tab.wait_for_selector('.g4-attention[data-missing="0"][data-heads]')
            tab.locator(".g4-attention .g4-word[data-i='4']").click()
            tab.locator(".g4-routing .g4-word.g4-selected[data-i='4']").wait_for()
            word = tab.locator(".g4-attention .g4-word[data-i='4']")
            word.hover()
            said = f"id {trace.tokens.ids[4]} · text"
            tab.wait_for_function(
                "([n, t]) => n.title.includes(t)", arg=[word.element_handle(), said]
            )
            statistic = tab.get_by_label("Value of a pooled cell")
            statistic.select_option("max")
            tab.wait_for_selector('.g4-attention[data-missing="0"]')
            tab.get_by_text("Strongest links of this head").click()
            chosen = tab.locator(".g4-mapbox h4").inner_text()
            layer, head = map(int, re.match(r"Layer (\d+), head (\d+)", chosen).groups())
            rows = tab.locator(".g4-mapbox details tbody tr")
            best = trace.attention.links(layer, head)[0]
            rows.first.filter(has_text=f"{best.weight:.3f}").wait_for()
            assert rows.count() == len(trace.attention.links(layer, head))
            tab.locator(".g4-headmap").focus()
            tab.keyboard.press("ArrowUp" if layer else "ArrowDown")
            tab.keyboard.press("Enter")  # another head: drawn from its picture
            tab.wait_for_function(
                "before => document.querySelector('.g4-mapbox h4').innerText !== before", arg=chosen
            )
            tab.wait_for_selector('.g4-attention[data-missing="0"]')
            assert not statistic.is_visible(), "other heads have their mean masses"
            assert tab.locator(".g4-problem:visible, .g4-banner:visible").count() == 0
            real = [url for url in asked if not url.startswith(("blob:", "data:"))]
            assert problems == [] and real == [page.as_uri()]
            browser.close()

    # In a thread of its own: another test's browser may hold this thread's event loop.
    with ThreadPoolExecutor(1) as alone:
        alone.submit(look).result()
