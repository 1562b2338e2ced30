"""The exported page: self-contained, safe with any text, alive in a browser from a file."""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gemma4_mlx as g4
from gemma4_mlx.errors import TraceError
from gemma4_mlx.tracing import AttentionPlan, Trace
from gemma4_mlx.tracing.html import TEMPLATE

TEXT = 'the drum code </script><img src=x onerror=alert(1)> <!-- "quoted" \u2028 &amp;'


@pytest.fixture(scope="module")
def trace():
    return g4.trace(g4.load(), TEXT, attention=AttentionPlan(bins=24))


@pytest.fixture(scope="module")
def page(trace, tmp_path_factory):
    return trace.to_html(tmp_path_factory.mktemp("page") / "trace.html", resolution=16)


def data_of(page):
    html = page.read_text("utf-8")
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', html, re.DOTALL)
    return html, json.loads(found[1])


def test_one_file_without_addresses(page):
    html, _ = data_of(page)
    template = TEMPLATE.read_text("utf-8")
    assert "default-src 'none'" in template
    assert not re.search(r"https?:|\bsrc=|\bhref=|@import|url\(|\bimport\b|fetch", template)
    assert html.count("</script>") == 2 and "<img" not in html


def test_the_page_holds_the_trace(page, trace):
    import base64

    _, data = data_of(page)
    assert "".join(data["tokens"]["texts"]) == trace.tokens.text == "<bos>" + TEXT
    routing = data["routing"]
    experts = np.frombuffer(base64.b64decode(routing["experts"]), "<u2")
    assert np.array_equal(experts.reshape(trace.routing.experts.shape), trace.routing.experts)
    edges = np.array(data["attention"]["edges"])
    assert len(edges) - 1 <= 16 and edges[-1] == len(trace)
    layer = data["attention"]["layers"][2]
    mass = np.frombuffer(base64.b64decode(layer["heads"][1]["mass"]), "<f2").astype(float)
    rows = mass.reshape(len(edges) - 1, -1).sum(1)
    assert np.abs(rows - 1).max() < 0.01
    query, key, weight = layer["heads"][1]["links"][0]
    assert abs(trace.attention.row(2, 1, query)[key] - weight) < 1e-3


def test_parts_may_be_missing(trace, tmp_path):
    only_tokens = Trace(trace.tokens)
    _, data = data_of(only_tokens.to_html(tmp_path / "a.html"))
    assert data["routing"] is None and data["attention"] is None
    bare = AttentionPlan(overview=False, summaries=False, links=0)
    without = g4.trace(g4.load(), "drum", attention=bare, routing=None)
    _, data = data_of(without.to_html(tmp_path / "b.html"))
    assert data["attention"]["edges"] is None
    with pytest.raises(TraceError, match="shows nothing"):
        trace.to_html(tmp_path / "c.html", resolution=0)


def test_in_a_browser(page, trace):
    """Opened from disk: drawn, no errors, no requests, mouse and keyboard work."""
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
            tab.goto(page.as_uri())
            assert tab.locator("#text button").count() == len(trace)
            assert len(tab.locator("#text").inner_text()) > 20
            tab.select_option("#layer", "2")
            tab.select_option("#head", "1")
            tab.focus("#map")
            tab.keyboard.press("ArrowDown")
            said = tab.inner_text("#cell")
            value = float(said.rsplit(": ", 1)[1])
            edges = trace.attention.overview_tile(2, 1, (16, 16)).query_edges
            cell = trace.attention.overview_tile(2, 1, (16, 16)).values[1, 0]
            assert abs(value - cell) <= 5e-3 * cell + 1e-6 and str(edges[1]) in said
            tab.select_option("#router", "3")
            tab.locator("#text button").nth(4).click()
            chosen = tab.inner_text("#token").splitlines()[3]
            assert str(trace.routing.experts[3, 4, 0]) in chosen
            tab.hover("#experts")
            assert "goes to" in tab.inner_text("#choice")
            painted = tab.evaluate(
                "new Set(document.querySelector('#map').getContext('2d')"
                ".getImageData(0, 0, 16, 16).data).size"
            )
            assert painted > 10 and problems == [] and asked == [page.as_uri()]
            browser.close()

    # In a thread of its own: another test's browser may hold this thread's event loop.
    with ThreadPoolExecutor(1) as alone:
        alone.submit(look).result()
