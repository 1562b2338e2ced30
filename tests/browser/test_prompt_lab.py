"""The Prompt widget as a reader uses it, in JupyterLab with the teaching model."""

import ast
import re

import numpy as np
import pytest
import soundfile
from PIL import Image
from waiting import until

LOAD = """
import gemma4_mlx as g4
from gemma4_mlx.generation import SamplingOptions
model = g4.load()
"""
# An answer that does not end by itself, and whose every token is seen: no control token (one might
# open a thought, which is folded) and no line break.
SHOW = """
never = tuple(range(115))
endless = SamplingOptions(temperature=0.7, seed=1, max_tokens=100_000, suppress_tokens=never)
prompt = g4.widgets.Prompt(g4.Chat(model, options=endless))
prompt
"""
AGAIN = "second = g4.widgets.Prompt(model, options={'max_tokens': 40}); second"
BUSY = "import time; print('at work', flush=True); time.sleep(3600)"  # ends by an interrupt
MEDIA = """
said = second.chat.messages[0].parts
print([(p.kind, p.name, len(p.source)) for p in said if hasattr(p, "kind")])
"""
BEGUN = "document.querySelector('.g4-from-assistant .g4-body')?.textContent.length > 40"


@pytest.fixture(scope="module")
def lab_notebook(shared_notebook):
    opened = shared_notebook(LOAD, SHOW, AGAIN, BUSY, MEDIA, run=False)
    opened.run(0)
    opened.run(1)
    return opened


@pytest.fixture
def prompt(lab_notebook):
    root = lab_notebook.page.locator(".g4-prompt").first
    root.wait_for()
    return root


def send(root, text):
    box = root.get_by_role("textbox", name="Your message")
    box.fill(text)
    box.press("Enter")


def answer(root):
    return root.locator(".g4-from-assistant").last.locator(".g4-body")


def test_tokens_arrive_before_the_answer_is_complete_and_stop_stops(prompt, lab_notebook):
    page = lab_notebook.page
    send(prompt, "hello")
    prompt.get_by_role("button", name="Stop").wait_for()
    body = answer(prompt)
    page.wait_for_function(BEGUN)
    early = len(body.inner_text())
    until(lambda: len(body.inner_text()) > early, "the answer grows while it is written")
    seconds = page.evaluate(
        """async () => {
          const root = document.querySelector('.g4-prompt');
          const begin = performance.now();
          root.querySelector('.g4-send').click();
          while (root.dataset.busy === 'true') await new Promise((r) => setTimeout(r, 2));
          return (performance.now() - begin) / 1000;
        }"""
    )
    print(f"stopped {seconds:.3f} s after the click")
    prompt.get_by_text("Stopped").wait_for()
    stopped = body.inner_text()
    page.wait_for_timeout(300)
    assert body.inner_text() == stopped


def test_a_second_prompt_and_its_numbers(prompt):
    send(prompt, "and another?")
    prompt.get_by_role("button", name="Stop").wait_for()
    until(lambda: answer(prompt).inner_text())
    prompt.page.keyboard.press("Escape")
    prompt.get_by_role("button", name="Send").wait_for()
    assert prompt.locator(".g4-message").count() == 4
    status = prompt.locator(".g4-status").inner_text()
    assert "tokens/s" in status and "context" in status and "first token" in status
    assert "from cache" in status, "the first turn is not read again"


def test_an_answer_outlives_another_cell_and_an_interrupt(prompt, lab_notebook):
    """A new message waits for the kernel on most versions; what was sent goes on and is shown."""
    page = lab_notebook.page
    send(prompt, "go on")
    prompt.get_by_role("button", name="Stop").wait_for()
    lab_notebook.run(3)
    at_work = lab_notebook.cell(3).locator(".jp-OutputArea-output", has_text="at work")
    at_work.wait_for()  # an interrupt before that would be lost
    longer = "(n) => [...document.querySelectorAll('.g4-from-assistant .g4-body')].at(-1)"
    longer += ".textContent.length > n"
    page.wait_for_function(longer, arg=len(answer(prompt).inner_text()) + 20)
    assert "*" in lab_notebook.cell(3).locator(".jp-InputPrompt").inner_text()
    lab_notebook.execute("kernelmenu:interrupt")
    lab_notebook.cell(3).get_by_text("KeyboardInterrupt").first.wait_for()
    page.wait_for_function(longer, arg=len(answer(prompt).inner_text()) + 20)
    prompt.get_by_role("button", name="Stop").click()
    prompt.get_by_role("button", name="Send").wait_for()
    assert prompt.locator(".g4-from-user .g4-plain").last.inner_text() == "go on"


def test_edit_regenerate_and_switch_back(prompt):
    message = prompt.locator(".g4-from-user").last
    message.get_by_role("button", name="Edit").click()
    prompt.get_by_role("textbox", name="Edit the message").fill("other words")
    prompt.get_by_role("button", name="Send again").click()
    prompt.get_by_role("button", name="Stop").click()
    prompt.get_by_role("button", name="Send").wait_for()
    assert prompt.locator(".g4-from-user .g4-plain").last.inner_text() == "other words"
    prompt.locator(".g4-from-user").last.get_by_role("button", name="Previous version").click()
    prompt.locator(".g4-from-user .g4-plain", has_text="go on").wait_for()


def test_tokens_and_an_alternative_to_go_on_from(prompt, picture, lab_notebook):
    last = prompt.locator(".g4-from-assistant").last
    last.get_by_role("button", name="Show the tokens").click()
    token = last.locator(".g4-tok").nth(3)
    token.click()
    choices = last.locator(".g4-choice:not(.g4-chosen)")
    choices.first.wait_for()
    picture(prompt, "prompt-lab", lab_notebook)
    token.click()
    choices.first.click()
    prompt.get_by_role("button", name="Stop").click()
    prompt.get_by_role("button", name="Send").wait_for()
    assert last.get_by_text("2 / 2").is_visible()


@pytest.fixture
def second(lab_notebook):
    """The other widget; its cell is run if no test before has run it."""
    root = lab_notebook.page.locator(".g4-prompt").nth(1)
    if not root.count():
        lab_notebook.run(2)
    root.locator(".g4-empty").wait_for()
    return root


def test_two_widgets_on_one_model_and_the_same_cell_again(prompt, second, lab_notebook):
    page = lab_notebook.page
    send(prompt, "first")
    send(second, "second")
    prompt.get_by_role("button", name="Stop").click()
    second.get_by_role("button", name="Send").wait_for()
    second.locator(".g4-from-assistant").wait_for()
    lab_notebook.run(2)
    page.wait_for_function("document.querySelectorAll('.g4-prompt').length === 2")
    fresh = page.locator(".g4-prompt").nth(1)
    fresh.locator(".g4-empty").wait_for()


def drop(page, target, path):
    """Drop a file from the file manager."""
    box = target.bounding_box()
    at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    browser = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for step in ("dragEnter", "dragOver", "drop"):
        browser.send("Input.dispatchDragEvent", {"type": step, **at, "data": data})
    browser.detach()


PASTE = """async () => {
  const canvas = new OffscreenCanvas(96, 64);
  canvas.getContext("2d").fillRect(20, 20, 40, 30);
  const blob = await canvas.convertToBlob({ type: "image/png" });
  await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
  return blob.size;
}"""


def test_pictures_and_sounds_dropped_and_pasted(prompt, second, lab_notebook, tmp_path):
    """Each shows what it is and what it costs before it is sent, and then is sent."""
    page, root = lab_notebook.page, second
    photo, sound = tmp_path / "photo.png", tmp_path / "sound.wav"
    Image.new("RGB", (300, 200), "teal").save(photo)
    soundfile.write(sound, np.sin(np.arange(8000) / 6) / 2, 16_000)
    box = root.get_by_role("textbox", name="Your message")
    box.scroll_into_view_if_needed()

    drop(page, box, photo)
    chips = root.locator(".g4-attached")
    chips.nth(0).get_by_text(re.compile(r"^\d+ tokens$")).wait_for()
    drop(page, root, sound)  # anywhere on the widget
    chips.nth(1).get_by_text(re.compile(r"^500 ms · \d+ tokens$")).wait_for()
    size = page.evaluate(PASTE)
    box.focus()
    page.keyboard.press("Control+V")
    chips.nth(2).get_by_text(re.compile(r"^\d+ tokens$")).wait_for()

    drawn = "(e) => e.complete && e.naturalWidth > 0"
    assert chips.nth(0).locator("img").evaluate(drawn)
    assert chips.nth(2).locator("img").evaluate(drawn)
    page.wait_for_function("(e) => e.duration === 0.5", arg=chips.locator("audio").element_handle())
    box.press("Enter")
    said = root.locator(".g4-from-user").last
    said.locator("figure").nth(2).wait_for()
    assert said.locator("figure").count() == 3 and said.locator("figure img").count() == 2
    said.get_by_role("button", name="Listen").click()
    said.locator("audio").wait_for()
    root.get_by_role("button", name="Send").wait_for()
    assert said.locator("audio").count() == 1, "what plays goes on when the answer is there"
    assert chips.count() == 0
    lab_notebook.run(4)
    sizes = [("image", photo), ("image", size), ("audio", sound)]
    output = lab_notebook.cell(4).locator(".jp-OutputArea-output").inner_text()
    sent = ast.literal_eval(output)
    assert [(kind, length) for kind, _, length in sent] == [
        (kind, file if isinstance(file, int) else file.stat().st_size) for kind, file in sizes
    ]
    assert sent[0][1] == "photo.png" and sent[2][1] == "sound.wav"


def test_it_says_when_the_kernel_is_gone(prompt, lab_notebook):
    lab_notebook.execute("kernelmenu:restart")
    lab_notebook.page.locator(".jp-Dialog button.jp-mod-accept").click()
    prompt.get_by_text("The kernel behind this widget is gone").wait_for()
