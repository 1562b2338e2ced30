"""The parts shared by every widget: joined modules, requests, the flusher, snapshots."""

import io
import json
import subprocess
import threading
import time

import numpy as np
import pytest
from PIL import Image
from waiting import PATIENCE, until

from gemma4_mlx.widgets import base, snapshot
from gemma4_mlx.widgets.snapshot import Snapshot, request_key


@pytest.fixture
def widget(tmp_path, monkeypatch):
    """A widget with its own two small modules."""
    (tmp_path / "helper.js").write_text(
        "export const two = 2;\nexport function twice(x) {\n  return two * x;\n}\n"
    )
    (tmp_path / "demo.js").write_text(
        'import { twice } from "./helper.js";\n\nfunction render({ el }) {\n'
        "  el.append(twice(21));\n}\n\nexport default { render };\n"
    )
    (tmp_path / "theme.css").write_text(".g4 { color: red }\n")
    (tmp_path / "demo.css").write_text(".g4-demo { margin: 0 }\n")
    monkeypatch.setattr(base, "STATIC", tmp_path)
    base.join_esm.cache_clear()
    base.join_css.cache_clear()

    class Demo(base.Widget):
        front = "demo"

        def answer_square(self, x):
            return x * x

        def answer_bytes(self, n):
            return {"n": n}, bytes(range(n))

        def answer_fail(self):
            raise KeyError("nothing there")

        def snapshot_requests(self):
            return [{"type": "bytes", "n": 3}]

    yield Demo()
    base.join_esm.cache_clear()
    base.join_css.cache_clear()


def test_modules_are_joined_into_one_without_imports(widget, tmp_path):
    text = widget._esm
    assert "import " not in text and "export const" not in text
    assert text.count("export default") == 1
    assert text.index("const two") < text.index("function render")
    module = tmp_path / "joined.mjs"
    module.write_text(str(text))
    subprocess.run(["node", "--check", module], check=True)


def test_requests_are_answered_and_errors_are_told(widget):
    assert widget.answer({"type": "square", "id": 1, "x": 7}) == ({"id": 1, "content": 49}, [])
    reply, buffers = widget.answer({"type": "bytes", "id": 2, "n": 4})
    assert reply == {"id": 2, "content": {"n": 4}} and buffers == [b"\0\1\2\3"]
    assert "KeyError" in widget.answer({"type": "fail", "id": 3})[0]["error"]
    assert "unknown request" in widget.answer({"type": "no", "id": 4})[0]["error"]


def test_a_message_is_answered_in_another_thread(widget, monkeypatch):
    sent, threads = [], []
    done = threading.Event()

    def send(content, buffers=None):
        sent.append(content)
        threads.append(threading.current_thread())
        done.set()

    monkeypatch.setattr(widget, "send", send)
    widget._on_message(widget, {"type": "square", "id": "a", "x": 3}, [])
    assert done.wait(PATIENCE)
    assert sent == [{"id": "a", "content": 9}] and threads[0] is not threading.main_thread()


def test_a_newer_request_of_a_slot_replaces_a_waiting_one(widget, monkeypatch):
    started, go, sent = threading.Event(), threading.Event(), []

    def answer_slow():
        started.set()
        go.wait(PATIENCE)

    monkeypatch.setattr(widget, "answer_slow", answer_slow, raising=False)
    monkeypatch.setattr(widget, "send", lambda content, buffers=None: sent.append(content))
    widget._on_message(widget, {"type": "slow", "id": "0"}, [])
    assert started.wait(PATIENCE)
    for i in range(1, 4):
        widget._on_message(widget, {"type": "square", "id": str(i), "x": i, "slot": "tile"}, [])
    go.set()
    until(lambda: len(sent) == 4)
    assert [m["id"] for m in sent] == ["0", "1", "2", "3"]
    assert sent[1].get("stale") and sent[2].get("stale") and sent[3]["content"] == 9


def test_a_long_answer_gives_signs_of_life(widget, monkeypatch):
    sent, go = [], threading.Event()

    def answer_long():
        for i in range(100):
            widget.progress("Comparing", i, 100)
        go.wait(PATIENCE)

    def send(content, buffers=None):
        sent.append(content)
        if content.get("alive", {}).get("2") is None and "alive" in content:
            go.set()

    monkeypatch.setattr(base, "BEAT", 0.05)
    monkeypatch.setattr(widget, "answer_long", answer_long, raising=False)
    monkeypatch.setattr(widget._pulse, "_send", send)
    monkeypatch.setattr(widget, "send", send)
    widget._on_message(widget, {"type": "long", "id": "1"}, [])
    widget._on_message(widget, {"type": "square", "id": "2", "x": 1}, [])
    until(lambda: {"id": "2", "content": 1} in sent)
    alive = [m["alive"] for m in sent if "alive" in m]
    assert alive[-1]["1"] == {"what": "Comparing", "done": 99, "total": 100}
    assert all("2" in beat for beat in alive), "one that waits is alive, too"
    assert sent.index({"id": "1", "content": None}) < sent.index({"id": "2", "content": 1})
    thread = widget._pulse._thread
    if thread is not None:
        thread.join(PATIENCE)
    assert not widget._pulse._open and widget._pulse._thread is None, "it ends with the last answer"


def test_the_flusher_keeps_its_rate_and_loses_nothing():
    state, seen = {"n": 0}, []
    flusher = base.Flusher(lambda: seen.append((time.perf_counter(), state["n"])))
    begin = time.perf_counter()
    for i in range(400):
        state["n"] = i + 1
        flusher.mark()
        time.sleep(0.001)
    until(lambda: seen and seen[-1][1] == 400)
    assert len(seen) <= base.RATE * (seen[-1][0] - begin) + 2


def test_request_keys_agree_with_javascript():
    assert request_key({"type": "t", "b": 2.0, "a": [1, "é"], "id": "x"}) == (
        '{"a":[1,"é"],"b":2,"type":"t"}'
    )


def test_a_page_holds_its_data_and_cannot_be_broken_out_of(widget):
    widget.error = "</script><script>alert(1)</script>"
    page = Snapshot.of(widget).page
    assert "alert(1)</script>" not in page
    data = page.split('class="g4-data">')[1].split("</script>")[0]
    (data,) = json.loads(data)["views"]
    assert data["state"]["error"].startswith("</script>")
    assert data["answers"]['{"n":3,"type":"bytes"}'] == {"content": {"n": 3}, "buffer": "AAEC"}
    assert "https://" not in page and "globalThis.g4Widget" in page


def test_the_picture_beside_a_live_view_is_small_true_and_quickly_made():
    """For less than choosing colours from every pixel costs; rare ones are told from others."""
    across, down = np.meshgrid(np.linspace(0, 255, 1800), np.linspace(0, 255, 1200))
    pixels = np.stack([across, down, 255 - across], -1).round().astype(np.uint8)
    pixels[:, :900] = 255  # much of a page is white
    pixels[::40, :900] = (37, 88, 201)  # and lined
    pixels[600:640, 300:400] = (230, 120, 0)  # one word is marked
    picture = Image.fromarray(pixels)

    begin = time.process_time()
    data = snapshot.small_png(picture)
    took = time.process_time() - begin
    begin = time.process_time()
    picture.quantize(128)
    assert took < time.process_time() - begin

    small = Image.open(io.BytesIO(data))
    assert len(data) <= snapshot.PICTURE_BYTES and small.size == picture.size
    wrong = np.abs(np.asarray(small.convert("RGB"), int) - pixels)
    assert wrong.mean() < 4 and wrong.max() < 32 and wrong[620, 350].max() < 12

    noise = np.random.default_rng(0).integers(0, 255, (700, 900, 3), np.uint8)
    assert len(snapshot.small_png(Image.fromarray(noise))) <= snapshot.PICTURE_BYTES
