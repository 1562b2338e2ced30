"""The Fit view in Chromium from a saved page: every choice is answered without a kernel."""

import pytest

import gemma4_mlx as g4
from gemma4_mlx.widgets.fit import Fit


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("fit") / "page.html"
    view = Fit(memory=24, model="26b-a4b", bits=4, context=32_768)
    return f"file://{view.snapshot().save(path)}"


def test_choices_change_the_verdict(page, saved, accessible, picture):
    page.goto(saved)
    root = page.locator(".g4-fit")
    plan = g4.fit("26b-a4b", 4, 32_768, None, 24)
    total = f"{plan.total / 2**30:.1f} GiB"
    root.locator(".g4-verdict strong", has_text=total).wait_for()
    assert ("does not fit" in root.locator(".g4-verdict").inner_text()) != plan.fits
    root.get_by_role("group", name="Model").get_by_role("button", name="e2b").click()
    root.locator(".g4-verdict", has_text="131,072 tokens").wait_for()
    slider = root.get_by_label("Tokens of context")
    slider.focus()
    page.keyboard.press("End")
    root.locator(".g4-verdict", has_text="Too long").wait_for()
    page.keyboard.press("Home")
    root.locator(".g4-verdict", has_text="to spare").wait_for()
    root.get_by_label("Machine").select_option("null")  # this one, as fit plans for it
    here = g4.fit("e2b", 4, 1024)
    root.locator(".g4-verdict", has_text=f"of {here.machine.usable / 2**30:.1f} GiB").wait_for()
    root.locator(".g4-verdict strong", has_text=f"{here.total / 2**30:.2f} GiB").wait_for()
    mac = here.machine.backend in ("metal", "none")
    assert ("macOS" in root.locator(".g4-verdict").inner_text()) == mac
    root.get_by_label("Machine").select_option("8")
    root.get_by_role("button", name="31b, 16 bits").click()
    root.locator(".g4-verdict", has_text="No context fits").wait_for()
    assert root.locator(".g4-piece").count() >= 8
    accessible(page, ".g4-fit")
    picture(root, "fit")
    assert not page.errors, page.errors
