"""The Why view in Chromium over the real widget: pointing, choosing, parts, checks, snapshots.

``told`` explains the teaching model's own answer; ``made`` an attribution of random shares with a
picture and a sound, at the shape of 26B-A4B.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "widgets"))
from front import WidgetPage, drawn
from synthetic import make_why

import gemma4_mlx as g4
from gemma4_mlx.widgets import Why

ASKED = "Note: key 208. Note: drum 471.\nWhat is the note for key?"
PAINTED = "[...document.querySelectorAll('.g4-word')].filter((n) => n.style.backgroundColor).length"


@pytest.fixture(scope="module")
def chat():
    chat = g4.Chat(g4.load())
    chat.send(ASKED, temperature=0, max_tokens=20)
    return chat


@pytest.fixture
def told(page, chat):
    opened = WidgetPage(page, Why(chat, target="0"))
    ready(page)
    yield opened
    assert not page.errors, page.errors


@pytest.fixture
def made(page):
    opened = WidgetPage(page, Why(make_why(1400, layers=30, heads=16)))
    ready(page)
    yield opened
    assert not page.errors, page.errors


def ready(page):
    page.locator(".g4-whytoken").first.wait_for()
    page.locator(".g4-whylist li").first.wait_for()
    page.locator(".g4-word").first.wait_for()
    page.locator(".g4-why[data-explaining=false]").wait_for()
    drawn(page)


def said(page) -> str:
    return page.locator(".g4-whysaid").inner_text()


def pull_question(view):
    """What the page asks reaches Python, and Python's question the page."""
    view.widget.question = view.page.evaluate("state.question")
    view.pull()


def test_pointing_explains_and_choosing_keeps(told):
    page = told.page
    start, _ = told.widget.meta["answer"]
    assert "Logit of 0" in said(page)
    page.locator(f"[data-at='{start}']").hover()
    page.locator(".g4-whysaid", has_text="Logit of The").wait_for()
    page.locator(".g4-title").hover()
    page.locator(".g4-whysaid", has_text="Logit of 0").wait_for()
    page.locator(f"[data-at='{start + 1}']").click()
    page.locator(".g4-whysaid", has_text="note").wait_for()
    pull_question(told)
    why = told.widget.attribution
    assert why.position == start + 1 == told.widget.selection["token"]
    first = why.top(1, "embedding", "head", "expert", "mlp", "per_layer")[0]
    row = page.locator(".g4-whylist li").first.inner_text()
    assert row.split("\n")[0].lower().endswith(str(first).lower().replace("_", "-"))
    number = f"{first.share:+.2f}".replace("-", "−")
    assert number in row


def test_keys_move_and_choose(told):
    page = told.page
    start, stop = told.widget.meta["answer"]
    chosen = page.locator(".g4-whytoken[aria-pressed=true]")
    chosen.focus()
    page.keyboard.press("Home")
    page.locator(".g4-whysaid", has_text="Logit of The").wait_for()
    page.keyboard.press("ArrowRight")
    page.locator(".g4-whysaid", has_text="note").wait_for()
    page.keyboard.press("Enter")
    assert chosen.get_attribute("data-at") == str(start + 1)
    page.keyboard.press("End")
    last = page.locator(f".g4-whytoken[data-at='{stop - 1}']")
    assert last.evaluate("(n) => n === document.activeElement")


def test_a_counter_target_is_chosen_among_the_alternatives(told):
    page = told.page
    nine = page.get_by_role("button", name="Why not “9”?")
    nine.wait_for()
    nine.click()
    page.locator(".g4-whysaid", has_text="less that of 9").wait_for()
    assert page.evaluate("state.question.against") == told.widget.answer_token("9")["id"]
    page.get_by_role("button", name="Why not “9”?").click()
    page.locator(".g4-whysaid", has_text="Logit of 0:").wait_for()
    other = page.get_by_label("Compare with another token")
    other.fill("7")
    other.press("Enter")
    page.locator(".g4-whysaid", has_text="less that of 7").wait_for()
    other.fill("no such token")
    other.press("Enter")
    page.locator(".g4-problem", has_text="is not one token").wait_for()
    page.get_by_role("button", name="Why “1”?").click()
    page.locator(".g4-whysaid", has_text="Logit of 1").wait_for()


def test_a_span_is_chosen_with_shift(told):
    page = told.page
    start, _ = told.widget.meta["answer"]
    page.locator(f"[data-at='{start + 3}']").click()
    page.locator(f"[data-at='{start + 5}']").click(modifiers=["Shift"])
    page.locator(".g4-whysaid", has_text="key 20").wait_for()
    assert page.locator(".g4-whytoken[aria-pressed=true]").count() == 3
    assert page.locator(".g4-whyothers").is_hidden()


def test_methods_say_what_they_cannot_tell(told):
    page = told.page
    for name, method in (("Direct", "direct"), ("Integrated", "integrated")):
        page.get_by_role("button", name=name).click()
        page.wait_for_function("document.querySelector('.g4-whymethod').textContent.length > 80")
        page.locator(".g4-why[data-explaining=false]").wait_for()
        assert page.evaluate("state.question.method") == method
        assert "cannot tell" in page.locator(".g4-whymethod").inner_text()
    assert "no shares" in page.locator(".g4-whyparts").inner_text()
    assert page.locator(".g4-sharelegend").is_visible()


def test_a_part_is_removed_and_put_back(told):
    page = told.page
    remove = page.get_by_role("button", name="Remove Layer").first
    name = (
        remove.get_attribute("aria-label").removeprefix("Remove ").removesuffix(" and answer again")
    )
    remove.click()
    panel = page.get_by_label("Without these parts")
    panel.locator("h5", has_text="Control").wait_for()
    assert panel.locator("h5").nth(1).inner_text().lower() == f"without {name}".lower()
    assert panel.locator(".g4-answer").first.inner_text().startswith("08")
    page.get_by_role("button", name=f"Put back {name}").click()
    assert panel.is_hidden()


def test_every_kind_of_part_has_a_button(told, picture):
    """The embedding, an MLP, a per-layer embedding: removed together, beside others of their kinds,
    but for the embedding, of which there is no other."""
    page = told.page
    for choice, named in (("MLPs", "MLP"), ("Embeddings", "per-layer embedding")):
        page.get_by_role("group", name="Parts").get_by_role("button", name=choice).click()
        rows = page.locator(".g4-whylist li")
        assert rows.count() == rows.get_by_role("button", name="Remove").count() > 1
        page.get_by_role("button", name=f"{named} and answer again").first.click()
    page.get_by_role("button", name="Remove Token embedding and answer again").click()
    panel = page.get_by_label("Without these parts")
    panel.locator("h5", has_text="Control").wait_for()
    heading = panel.locator("h5").nth(1).inner_text().lower()
    assert all(name in heading for name in ("mlp", "per-layer embedding", "token embedding"))
    assert "token embedding" not in panel.locator("h5").nth(2).inner_text()
    assert panel.locator(".g4-changes button").count() == 3
    picture(page.locator(".g4-why"), "why-without")


def test_a_token_is_hidden(told):
    page = told.page
    digit = told.widget.trace_of().tokens.find("208")[0].start + 1
    page.locator(f".g4-word[data-i='{digit}']").click()
    page.get_by_role("button", name="hide it").click()
    panel = page.get_by_label("Without these parts")
    panel.locator("h5", has_text=f"Without token {digit}").wait_for()
    panel.locator(".g4-first").first.wait_for()
    page.get_by_role("button", name="hidden", exact=True).click()
    assert panel.is_hidden() and "Logit of 0" in said(page)


def test_the_check_is_shown_with_its_controls(told, accessible, picture):
    page = told.page
    panel = page.get_by_label("Check", exact=True)
    panel.get_by_role("button", name="Remove them and measure").click()
    panel.locator("circle").first.wait_for()
    effects = told.widget.attribution.check(told.widget.meta["checked"])
    assert panel.locator("circle").count() == len(effects)
    assert panel.locator("circle[fill=none]").count() == sum(e.control for e in effects)
    assert "drawn at random" in panel.inner_text()
    panel.get_by_text("The effects as a table").click()
    assert panel.locator("tbody tr").count() == len(effects)
    label = panel.locator("svg text").first
    light = label.evaluate("(e) => getComputedStyle(e).fill")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("(c) => getComputedStyle(document.querySelector("
                           "'[aria-label=Check] svg text')).fill !== c", arg=light)  # fmt: skip
    assert panel.locator("details[open] tbody tr").count() == len(effects), "and stays open"
    page.emulate_media(color_scheme="light")
    accessible(page, ".g4-why")
    picture(told.root, "why-check")


def test_a_part_is_selected_where_it_worked(told):
    """A head shows in the other views at the token from which the explained one was predicted."""
    page, why = told.page, told.widget.attribution
    page.locator(".g4-whyparts button", has_text="Layer").first.click()
    part = why.top(1, "head", "expert")[0]
    chosen = told.widget.selection
    assert (chosen["layer"], chosen[part.kind]) == (part.layer, part.index)
    assert chosen["token"] == why.position - 1
    assert page.locator(".g4-whylist .g4-chosen").count() == 1
    assert "Logit of 0" in said(page), "what is explained stays"


def test_a_token_selected_elsewhere_is_explained(told):
    start, _ = told.widget.meta["answer"]
    told.widget.selection = {**told.widget.selection, "token": start}
    told.pull()
    told.page.locator(".g4-whysaid", has_text="Logit of The").wait_for()


def test_text_picture_and_sound_have_the_colours_of_their_shares(made, picture):
    page, why = made.page, made.widget.attribution
    assert page.evaluate(PAINTED) > 20
    page.get_by_label("Find text").fill("<bos>")
    page.get_by_label("Find text").press("Enter")
    page.locator(".g4-word[data-i='0']").wait_for()
    shares = why.positions / np.abs(why.positions).max()
    for i in np.argsort(-np.abs(shares[:300]))[:5].tolist():
        node = page.locator(f".g4-word[data-i='{i}']")
        colour = node.evaluate("(n) => n.style.backgroundColor.match(/[\\d.]+/g).map(Number)")
        warm = colour[0] > colour[2]
        assert warm == (shares[i] > 0), "orange for, blue against"
        assert colour[3] == pytest.approx(0.62 * abs(shares[i]) ** 0.5, abs=0.005)
    start = made.widget.meta["media"][0]["start"]
    page.locator("canvas.g4-image").scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('canvas.g4-image').width > 100")
    page.locator("canvas.g4-image").click(position={"x": 30, "y": 30})
    page.locator(".g4-whyabout", has_text="cat.png patch 0").wait_for()
    number = f"{why.positions[start]:+.2f}".replace("-", "−")
    assert number in page.locator(".g4-whyabout").inner_text()
    picture(made.root, "why")


def test_a_sound_has_the_colours_of_its_frames(made):
    page, why = made.page, made.widget.attribution
    media = made.widget.meta["media"][1]
    page.locator(".g4-strip").click(position={"x": 631 * media["start"] / 1400, "y": 10})
    canvas = page.locator("canvas.g4-audio")
    page.wait_for_function("document.querySelector('canvas.g4-audio').width > 100")
    drawn(page)
    frames = why.positions[media["start"] : media["stop"]]
    pixel = """(n, at) => [...n.getContext("2d").getImageData(at * n.width, 3, 1, 1).data]"""
    for k in np.argsort(-np.abs(frames))[:4].tolist():
        red, _, blue, _ = canvas.evaluate(pixel, (k + 0.5) / len(frames))
        assert (red > blue) == (frames[k] > 0), "orange for, blue against"


def test_an_answer_from_right_to_left(page):
    view = WidgetPage(page, Why(make_why(target=(5, " שלום"))))
    ready(page)
    flow = page.locator(".g4-whyflow")
    assert flow.evaluate("(n) => getComputedStyle(n).direction") == "rtl"
    assert "שלום" in said(page) and not page.errors
    assert view.widget.attribution.target[1] == " שלום"


def test_the_map_has_every_part(made):
    page, why = made.page, made.widget.attribution
    canvas = page.locator(".g4-partmap")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    readout = page.locator(".g4-whyreadout")
    share = f"{why.heads[1, 1]:+.2f}".replace("-", "−")
    assert readout.inner_text() == f"Layer 1 head 1: {share}"
    page.keyboard.press("Enter")
    assert made.widget.selection["layer"] == 1 and made.widget.selection["head"] == 1
    box = canvas.bounding_box()
    canvas.hover(position={"x": 33, "y": box["height"] - 5})
    share = f"{why.heads[29, 0]:+.2f}".replace("-", "−")
    readout.filter(has_text=f"Layer 29 head 0: {share}").wait_for()


def test_what_names_hold_is_text(made):
    assert "<b>other</b>" in said(made.page)
    assert not made.page.locator(".g4-why b").count()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessible_in_both_themes(made, accessible, theme):
    made.page.emulate_media(color_scheme=theme)
    made.page.wait_for_timeout(150)
    accessible(made.page, ".g4-why")


def test_a_snapshot_is_alive_without_a_kernel(page, chat, tmp_path):
    view = Why(chat, target="0", method="direct")
    view.explain_all()
    start, _ = view.meta["answer"]
    part = view.attribution.top(1, "head")[0]
    for answer, arguments in (
        (view.answer_check, {}),
        (view.answer_without, {"parts": [["head", part.layer, part.index]], "tokens": 4}),
    ):
        while "running" in answer(question=view.question, **arguments):
            pass
    page.goto(view.save_html(tmp_path / "why.html").as_uri())
    ready(page)
    assert "Logit of 0" in said(page)
    assert page.locator(".g4-whytoken[aria-disabled]").count() == 0
    page.get_by_label("Check", exact=True).locator("circle").first.wait_for()
    page.get_by_label("Without these parts").locator("h5", has_text="Control").wait_for()
    page.locator(f"[data-at='{start}']").hover()
    page.locator(".g4-whysaid", has_text="Logit of The").wait_for()
    page.locator(f"[data-at='{start + 1}']").click()
    page.locator(".g4-whysaid", has_text="note").wait_for()
    assert not page.locator(".g4-problem:visible").count()
    assert not page.errors, page.errors


def test_a_snapshot_says_which_tokens_it_does_not_have(page, chat, tmp_path):
    view = Why(chat, target="0")
    page.goto(view.save_html(tmp_path / "why.html").as_uri())
    ready(page)
    tokens = page.locator(".g4-whytoken").count()
    assert page.locator(".g4-whytoken[aria-disabled]").count() == tokens - 1
    page.locator(".g4-whytoken").first.click(force=True)
    assert "Logit of 0" in said(page)
    page.get_by_role("button", name="Direct").click()
    page.locator(".g4-problem", has_text="This page is a snapshot").wait_for()
    assert page.get_by_role("button", name="Gradient ×").get_attribute("aria-pressed") == "true"
    assert not page.errors
