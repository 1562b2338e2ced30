"""The Prompt widget's front end in Chromium: streaming, safety, tokens, tools, files, keyboard."""

import pytest
from front import FrontEnd

CANARY = (
    "Hello <script>window.canary = 1</script> <img src=x onerror='window.canary = 2'>\n\n"
    "[a](javascript:window.canary=3) [b](data:text/html,<script>window.canary=4</script>) "
    "<javascript:window.canary=5> ![c](https://127.0.0.2/x.png)\n\n"
    '```html"onclick=window.canary=6\n<script>window.canary = 7</script>\n```\n\n'
    "<details ontoggle=window.canary=8 open><svg onload=window.canary=9>"
)
FOCUSED = "label => document.activeElement.getAttribute('aria-label') === label"
ABOUT = {"name": "a model", "detail": "small", "media": ["image", "audio"], "suggestions": ["hi"]}


def turn(id, role, *parts, **more):
    parts = [{"kind": "text", "text": p} if isinstance(p, str) else p for p in parts]
    base = {"id": id, "role": role, "parts": parts, "status": "done", "branch": 0, "branches": 1}
    return base | {"tokens": 0, "editable": True} | more


def delta(text, at, part=0, id="1", kind="text"):
    return {"kind": "delta", "turn": id, "part": part, "part_kind": kind, "at": at, "text": text}


@pytest.fixture
def front(page):
    def make(*turns, answers=None, **traits):
        state = {"turns": list(turns), "about": ABOUT, "options": {"temperature": 1}, "stats": {}}
        state |= {"busy": False, "error": ""} | traits
        return FrontEnd(page, "prompt", state, answers)

    yield make
    assert not page.errors, page.errors


def test_deltas_are_drawn_and_a_gap_is_healed(front):
    f = front(turn("0", "user", "hi"), turn("1", "assistant", status="streaming"), busy=True)
    text = f.root.locator(".g4-from-assistant .g4-text")
    f.push(delta("Hello 😀 ", 0))
    f.push(delta("**wor", 9))  # an emoji counts two in JavaScript
    f.push(delta("ld**", 14))
    text.locator("strong", has_text="world").wait_for()
    assert len(f.sent("whole")) == 1  # asked once, as the view opened in the middle of an answer
    f.reply("whole", error="late")
    f.push(delta(" lost the piece before", 30))
    f.page.wait_for_function("sent.filter((m) => m.type === 'whole').length === 2")
    whole = turn("1", "assistant", "Hello 😀 **world** and all", status="streaming")
    f.reply("whole", content={"turns": [turn("0", "user", "hi"), whole], "progress": None})
    text.get_by_text("and all").wait_for()
    # A piece told twice changes nothing.
    f.push(delta("world** and all", 11))
    f.page.wait_for_timeout(100)
    assert text.inner_text().strip() == "Hello 😀 world and all"


def test_nothing_in_an_answer_or_a_name_runs(front):
    image = {"kind": "audio", "key": "k", "label": CANARY, "seconds": 1, "tokens": 2}
    call = {"kind": "tool_call", "id": "c", "name": CANARY, "arguments": {CANARY: CANARY}}
    call |= {"status": "done", "result": CANARY}
    thinking = {"kind": "thinking", "text": CANARY}
    f = front(
        turn("0", "user", CANARY, image),
        turn("1", "assistant", thinking, call, CANARY, tokens=1),
        about=ABOUT | {"name": CANARY, "suggestions": [CANARY], "greeting": CANARY},
        error=CANARY,
        answers={"tokens": {"content": [[CANARY, 0.5, [[1, CANARY, 0.5]]]]}},
    )
    f.root.get_by_role("button", name="Show the tokens").click()
    f.root.locator(".g4-tok").first.hover()
    f.root.locator(".g4-choice").first.wait_for()
    f.page.wait_for_timeout(300)
    assert f.page.evaluate("window.canary") is None
    unsafe = "script, img, svg[onload], a[href^='javascript'], a[href^='data']"
    assert f.root.locator(unsafe).count() == 0
    assert "<script>window.canary = 7</script>" in f.root.locator(".g4-code pre").inner_text()


def test_enter_sends_and_escape_stops(front):
    f = front(answers={"send": {"content": True}})
    box = f.root.get_by_role("textbox", name="Your message")
    box.fill("one")
    box.press("Shift+Enter")
    box.type("two")
    box.press("Enter")
    f.page.wait_for_function("sent.some((m) => m.type === 'send')")
    assert f.sent("send")[0]["text"] == "one\ntwo" and box.input_value() == ""
    f.set(busy=True)
    f.root.get_by_role("button", name="Stop").wait_for()
    box.press("Escape")
    assert len(f.sent("stop")) == 1
    f.set(busy=False)
    f.root.get_by_role("button", name="Send").wait_for()
    f.answer("send", error="ContextError: too long")
    box.fill("keep me")
    box.press("Enter")
    f.root.get_by_text("too long").first.wait_for()
    assert box.input_value() == "keep me"


def test_tokens_alternatives_and_going_on_from_one_by_keyboard(front, picture):
    words = ["The", " cat", " sat", " on", "\n", "سلام", " mat"]
    tokens = [
        [w, p, [[7, w, p], [8, " dog", 0.2]]]
        for w, p in zip(words, [0.95, 0.7, 0.4, 0.2, 0.05, 0.9, 0.5])
    ]
    f = front(
        turn("0", "user", "hi"),
        turn("1", "assistant", "The cat sat on\nسلام mat", tokens=7),
        answers={"tokens": {"content": tokens}, "continue_from": {"content": True}},
    )
    f.root.get_by_role("button", name="Show the tokens").click()
    f.root.locator(".g4-tok").first.focus()
    f.page.keyboard.press("ArrowRight")
    assert f.root.locator(".g4-tok:focus").inner_text() == "·cat"
    f.root.locator(".g4-choices", has_text="·dog").wait_for()
    picture(f.root, "prompt-tokens")
    f.page.keyboard.press("Enter")  # into the alternatives
    f.page.keyboard.press("ArrowDown")
    f.page.keyboard.press("Enter")
    f.page.wait_for_function("sent.some((m) => m.type === 'continue_from')")
    went = f.sent("continue_from")[0]
    assert (went["turn"], went["token"], went["alternative"]) == (1, 1, 8)


def test_a_token_is_explained_in_the_why_view(front):
    """Only where one is open; why the token came, and why another did not."""
    tokens = [["A", 0.9, [[7, "A", 0.9], [8, "The", 0.1]]], [" cat", 0.8, [[9, " cat", 0.8]]]]
    f = front(
        turn("0", "user", "hi"),
        turn("1", "assistant", "A cat", tokens=2),
        answers={"tokens": {"content": tokens}, "explain": {"content": True}},
    )
    f.root.get_by_role("button", name="Show the tokens").click()
    f.root.locator(".g4-tok").first.click()
    assert not f.root.get_by_text("why").count()
    f.page.keyboard.press("Escape")
    f.set(explains=True)
    f.root.locator(".g4-tok").first.click()
    f.root.get_by_role("button", name="why “A”?").click()
    f.root.get_by_role("button", name="why not “The”?").click()
    f.page.wait_for_function("sent.filter((m) => m.type === 'explain').length === 2")
    asked = [(m["turn"], m["token"], m["alternative"]) for m in f.sent("explain")]
    assert asked == [(1, 0, None), (1, 0, 8)]


def test_a_tool_waits_for_the_reader(front):
    call = {"kind": "tool_call", "id": "c7", "name": "rm", "arguments": {"path": "/"}}
    f = front(
        turn("0", "user", "hi"),
        turn("1", "assistant", call | {"status": "waiting"}, status="streaming"),
        busy=True,
        answers={"approve": {"content": True}, "whole": {"error": "no"}},
    )
    f.root.get_by_role("button", name="Deny").click()
    f.page.wait_for_function("sent.some((m) => m.type === 'approve')")
    said = f.sent("approve")[0]
    assert said["call"] == "c7" and said["allow"] is False
    denied = turn("1", "assistant", call | {"status": "denied", "result": "no"}, status="streaming")
    f.push({"kind": "turn", "turn": denied})
    f.root.get_by_text("Denied").wait_for()
    assert not f.root.get_by_role("button", name="Approve").is_visible()


def test_a_file_travels_in_pieces_and_a_bad_one_says_why(front):
    f = front(answers={"attach": {"content": {"key": "K", "kind": "image", "tokens": 70}}})
    files = f.root.get_by_label("Files to attach")
    files.set_input_files(
        {"name": "<b>big</b>.png", "mimeType": "image/png", "buffer": b"x" * 2_500_000}
    )
    f.root.get_by_text("70 tokens").wait_for()
    pieces = f.sent("attach")
    assert [m["sizes"][0] for m in pieces] == [2**21, 2_500_000 - 2**21]
    assert [m["part"] for m in pieces] == [0, 1] and pieces[0]["name"] == "<b>big</b>.png"
    f.answer("attach", error="MediaError: that is no picture")
    files.set_input_files({"name": "bad.png", "mimeType": "image/png", "buffer": b"x"})
    f.root.get_by_text("that is no picture").wait_for()
    files.set_input_files({"name": "a.pdf", "mimeType": "application/pdf", "buffer": b"x"})
    f.root.get_by_text("This model takes pictures and sounds; this file is").wait_for()
    f.answer("send", content=True)
    f.root.get_by_role("textbox", name="Your message").press("Enter")
    f.page.wait_for_function("sent.some((m) => m.type === 'send')")
    assert f.sent("send")[0]["attachments"] == ["K"]


def test_edit_regenerate_branches_and_copy(front):
    f = front(
        turn("0", "user", "first words"),
        turn("1", "assistant", "an answer", branch=1, branches=3),
        answers={k: {"content": True} for k in ("edit", "regenerate", "branch")},
    )
    f.root.get_by_role("button", name="Copy").last.click()
    assert f.page.evaluate("navigator.clipboard.readText()") in ("an answer", "")
    f.root.get_by_role("button", name="Previous version").click()
    f.root.get_by_role("button", name="Answer again").click()
    f.root.get_by_role("button", name="Edit").first.click()
    field = f.root.get_by_role("textbox", name="Edit the message")
    assert field.input_value() == "first words"
    field.fill("other words")
    f.root.get_by_role("button", name="Send again").click()
    f.page.wait_for_function("sent.some((m) => m.type === 'edit')")
    assert f.sent("branch")[0]["branch"] == 0 and f.sent("regenerate")[0]["turn"] == 1
    assert f.sent("edit")[0]["text"] == "other words" and f.sent("edit")[0]["turn"] == 0


def test_enter_means_the_same_in_an_edit_and_focus_goes_on_from_where_it_was(front):
    f = front(
        turn("0", "user", "first words"),
        turn("1", "assistant", "an answer", branch=1, branches=3),
        answers={k: {"content": True} for k in ("edit", "regenerate", "new")},
    )
    focused = f.root.locator(":focus")
    field = f.root.get_by_role("textbox", name="Edit the message")
    f.root.get_by_role("button", name="Edit").first.click()
    field.fill("one")
    field.press("Shift+Enter")
    field.press_sequentially("two")
    assert not f.sent("edit")
    field.press("Enter")
    f.page.wait_for_function("sent.some((m) => m.type === 'edit')")
    assert f.sent("edit")[0]["text"] == "one\ntwo"
    f.page.wait_for_function(FOCUSED, arg="Your message")
    f.root.get_by_role("button", name="Edit").first.click()
    field.press("Escape")  # gives up the edit
    assert focused.get_attribute("aria-label") == "Edit" and len(f.sent("edit")) == 1
    f.root.get_by_role("button", name="Edit").last.click()
    field.press("Enter")  # the model's own words: no answer follows
    f.page.wait_for_function(FOCUSED, arg="Edit")
    f.root.get_by_role("button", name="Previous version").click()
    other = turn("1b", "assistant", "another answer", branch=0, branches=3)
    f.set(turns=[turn("0", "user", "first words"), other])  # comes before the answer
    f.reply("branch", content=True)
    f.page.wait_for_function("document.activeElement.closest('.g4-branches, .g4-actions')")
    f.root.get_by_role("button", name="Answer again").click()
    f.page.wait_for_function(FOCUSED, arg="Your message")
    f.root.get_by_role("button", name="New conversation").click()
    f.page.wait_for_function("sent.some((m) => m.type === 'new')")
    f.page.wait_for_function(FOCUSED, arg="Your message")


TOKENS = [[" word", 0.3, [[i, f" other{i}", 0.1] for i in range(5)]] for _ in range(240)]


def long_answer(front, **more):
    many = [turn(f"{i}", "user", f"question {i}") for i in range(6)]
    last = turn("x", "assistant", " word" * 240, tokens=len(TOKENS))
    f = front(*many, last, answers={"tokens": {"content": TOKENS}}, **more)
    f.root.get_by_role("button", name="Show the tokens").click()
    f.root.locator(".g4-tok").last.scroll_into_view_if_needed()
    return f


def test_the_alternatives_are_whole_wherever_their_token_is_and_stay_while_the_page_scrolls(
    front, picture
):
    f = long_answer(front)
    f.page.set_viewport_size({"width": 900, "height": 620})
    choices = f.root.locator(".g4-choices")
    for i in (0, 100, 239):  # at the top, in the middle, next to the composer
        token = f.root.locator(".g4-tok").nth(i)
        token.scroll_into_view_if_needed()
        f.page.wait_for_timeout(250)
        token.click()
        choices.get_by_text(f"token {i + 1} ").wait_for()
        box = choices.bounding_box()
        assert box["x"] >= 0 and box["y"] >= 0
        assert box["x"] + box["width"] <= 900 and box["y"] + box["height"] <= 620
        for row in choices.locator(".g4-choice").all():  # nothing lies over it
            assert row.evaluate(
                "e => { const r = e.getBoundingClientRect();"
                "const at = document.elementFromPoint(r.x + r.width / 2, r.y + r.height / 2);"
                "return e.contains(at); }"
            )
    picture(f.root, "prompt-alternatives")
    token = f.root.locator(".g4-tok").nth(120)
    token.click()
    for scroller in (".g4-flow", ".g4-log"):
        y = token.bounding_box()["y"]
        f.root.locator(scroller).evaluate("e => e.scrollBy(0, -25)")
        f.page.wait_for_timeout(600)
        at, box = token.bounding_box(), choices.bounding_box()  # it stands by its token still
        assert abs(at["y"] - y) > 10
        gaps = (box["y"] - at["y"] - at["height"], at["y"] - box["y"] - box["height"])
        assert min(abs(gap) for gap in gaps) < 6
    assert choices.get_by_text("token 121 ").is_visible()
    f.page.keyboard.press("Escape")
    assert not choices.is_visible()


def test_a_conversation_that_is_refused_says_why(front, tmp_path):
    said = "notes.json holds no conversation. The conversation shown here stays."
    f = front(turn("0", "user", "hi"), answers={"load": {"error": f"ChatError: {said}"}})
    (tmp_path / "notes.json").write_text("[1]")
    f.root.locator(".g4-head input[type=file]").set_input_files(tmp_path / "notes.json")
    f.root.locator(".g4-hint", has_text=said).wait_for()
    f.page.wait_for_timeout(300)
    assert f.root.locator(".g4-hint").is_visible(), "until something else is asked"


def test_the_token_view_ends_with_its_conversation(front):
    f = long_answer(front, conversation=1)
    f.set(conversation=2, turns=[])
    f.set(turns=[turn(f"{i}", "user", "again") for i in range(6)])
    new = turn("y", "assistant", "an answer", tokens=3)
    f.set(turns=[*f.page.evaluate("state.turns"), new])
    f.root.get_by_text("an answer").wait_for()
    assert f.root.locator(".g4-tokens").count() == 0


def test_reading_a_long_prompt_shows_its_progress_and_a_failure_gives_the_text_back(front):
    f = front(turn("0", "user", "hi"), turn("1", "assistant", status="streaming"), busy=True)
    f.root.get_by_text("Reading the prompt…").wait_for()  # before anything is known
    f.push({"kind": "progress", "done": 2048, "total": 13_000})
    f.root.get_by_text("Reading the prompt: 2,048 of 13,000 tokens").wait_for()
    f.push(delta("x", 0))
    f.root.get_by_role("progressbar").wait_for(state="hidden")
    f.push({"kind": "draft", "text": "what I wrote"})
    assert f.root.get_by_role("textbox", name="Your message").input_value() == "what I wrote"


def test_it_says_that_the_kernel_is_gone_and_cleans_up(front):
    f = front(turn("0", "user", "hi"))
    f.page.evaluate("emit('comm_live_update')")
    f.root.get_by_text("The kernel behind this widget is gone").wait_for()
    f.page.evaluate("cleanup()")
    assert f.page.locator(".g4-prompt").count() == 0


def test_a_recording_becomes_a_wav_file(front):
    f = front(
        answers={"attach": {"content": {"key": "R", "kind": "audio", "tokens": 9, "seconds": 0.5}}}
    )
    button = f.root.get_by_role("button", name="Record with the microphone")
    button.click()
    f.root.locator("button[aria-pressed=true]").wait_for()
    f.page.wait_for_timeout(500)
    button.click()
    f.root.get_by_text("9 tokens").wait_for()
    sent = f.sent("attach")[0]
    assert sent["mime"] == "audio/wav" and sent["sizes"][0] > 44


def test_it_is_accessible_and_looks_right(front, accessible, picture):
    thinking = {"kind": "thinking", "text": "The reader wants a table.", "closed": True}
    call = {"kind": "tool_call", "id": "c", "name": "get_weather", "arguments": {"city": "Paris"}}
    answer = (
        "It is **21 °C** in Paris.\n\n| layer | expert |\n|---|---|\n| 0 | 12 |\n\n"
        "```python\nfor i in range(3):\n    print(i)\n```\n\nמזג האוויר נאה."
    )
    f = front(
        turn("0", "user", "What is the weather in Paris?"),
        turn(
            "1",
            "assistant",
            thinking,
            call | {"status": "done", "result": '{"sky": "clear"}'},
            answer,
            tokens=40,
        ),
        turn("2", "user", "وماذا عن القاهرة؟"),
        turn("3", "assistant", call | {"id": "d", "status": "waiting"}, status="streaming"),
        stats={
            "tokens_per_second": 142.7,
            "first_token": 0.081,
            "used": 412,
            "context": 8192,
            "memory": 58_000_000,
        },
    )
    f.root.get_by_role("button", name="Sampling controls").click()
    for theme in ("light", "dark"):
        f.page.emulate_media(color_scheme=theme)
        accessible(f.page, ".g4-prompt")
    picture(f.root, "prompt-front")
    assert (
        f.root.locator(".g4-from-user .g4-plain").last.evaluate(
            "e => getComputedStyle(e).direction"
        )
        == "rtl"
    )
