"""The Why widget's Python side: what it explains, sends, removes and keeps."""

import gc
import json
import threading

import numpy as np
import pytest
from synthetic import make_media, make_trace, make_why
from waiting import PATIENCE, until

import gemma4_mlx as g4
from gemma4_mlx.errors import AttributionError, ChatError, TraceError
from gemma4_mlx.widgets import Prompt, Why
from gemma4_mlx.widgets.explaining import drawn_beside
from gemma4_mlx.widgets.why import Superseded, encoded

ASKED = "Note: key 208. Note: drum 471.\nWhat is the note for key?"


@pytest.fixture(scope="module")
def model():
    return g4.load()


@pytest.fixture(scope="module")
def chat(model):
    chat = g4.Chat(model)
    assert "208" in chat.send(ASKED, temperature=0, max_tokens=20).text
    return chat


@pytest.fixture(scope="module")
def view(chat):
    return Why(chat, target="0")


def finished(answer, *args, **kwargs):
    """An answer that may say for some time that it is not there yet."""
    while isinstance(found := answer(*args, **kwargs), dict) and "running" in found:
        assert 0 <= found["running"] <= 1
    return found


def decoded(content, bulk):
    """The arrays by name, as the front end reads them."""
    arrays, at = {}, 0
    for name, shape in content["arrays"].items():
        size = int(np.prod(shape))
        arrays[name] = np.frombuffer(bulk, "<f4", size, at).reshape(shape)
        at += 4 * size
    if "experts" in arrays:
        ids = np.frombuffer(bulk, "<i4", arrays["experts"].size, at)
        arrays["expert_ids"] = ids.reshape(arrays["experts"].shape)
        at += 4 * ids.size
    assert at == len(bulk)
    return arrays


def test_an_explanation_is_the_attribution(view, chat, model):
    """Every number that the view gets is that of ``attribute`` on the same chat."""
    why = g4.attribute(model, chat, "0", method=view.question["method"])
    content, bulk = finished(view.answer_explain, **view.question)
    assert content["position"] == why.position == view.question["position"]
    assert content["target"] == [view.question["target"], "0"] and content["against"] is None
    assert content["total"] == pytest.approx(why.total, abs=1e-4)
    for name, array in decoded(content, bulk).items():
        np.testing.assert_allclose(array, getattr(why, name), atol=1e-4)
    assert view.attribution is view.attribution, "it is not computed twice"


@pytest.mark.parametrize("left_out", [(), ("positions",), ("experts",), ("per_layer", "positions")])
def test_arrays_survive_the_journey(left_out):
    groups = {"experts": ("experts", "expert_ids", "expert_weights")}
    missing = {name: None for each in left_out for name in groups.get(each, (each,))}
    why = make_why(**missing)
    content, bulk = encoded(why)
    arrays = decoded(json.loads(json.dumps(content)), bulk)
    assert not missing.keys() & arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, getattr(why, name))


def test_the_answers_tokens_and_what_else_could_have_come(view, model):
    row = finished(view.answer_row)
    start, stop = view.meta["answer"]
    tokens = view.trace_of().tokens
    assert len(row) == stop - start and row[-1][0] == "<turn|>"
    assert (
        "".join(entry[0] for entry in row[:-1])
        == view.trace_of()
        .tokens.text[sum(len(t) for t in tokens.texts[:start]) :]
        .split("<turn|>")[0]
    )
    for at, (text, id, probability, others) in enumerate(row, start):
        assert (text, id) == (tokens.texts[at], tokens.ids[at])
        shares = [share for _, _, share in others]
        assert shares == sorted(shares, reverse=True) and sum(shares) <= 1 + 1e-5
        best = others[0]
        assert best[0] == id and probability == pytest.approx(best[2], abs=1e-5)
        assert best[1] == model.tokenizer.token_text(id)


def test_without_an_answer_the_next_token_is_explained(model):
    chat = g4.Chat(model, messages=[g4.chat.Message("user", (g4.chat.Text(ASKED),))])
    view = Why(chat)
    start, stop = view.meta["answer"]
    assert stop == start + 1 == view.meta["n"] + 1 and view.question["position"] == start
    ((text, id, probability, others),) = finished(view.answer_row)
    assert text is id is probability is None
    why = view.attribution
    assert why.target == (others[0][0], others[0][1]) == (others[0][0], "The")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"target": "no such token"}, "does not say"),
        ({"target": len}, "explains tokens"),
        ({"target": "9"}, "does not say"),
        ({"position": 10_000}, "position 10000"),
        ({"target": "0", "against": "no such token"}, "not one token"),
    ],
)
def test_a_question_that_cannot_be_asked(chat, how, says):
    with pytest.raises(AttributionError, match=says):
        Why(chat, **how)


def test_what_is_no_source_and_what_does_not_fit(chat, model):
    with pytest.raises(TypeError, match="a chat, a Prompt widget or an attribution"):
        Why(model)
    with pytest.raises(AttributionError, match="other tokens"):
        Why(chat, trace=make_trace(60))
    with pytest.raises(TraceError, match="inputs="):
        Why(make_why(), model=model)


def test_errors_reach_the_view_as_a_sentence(view):
    reply, _ = view.answer({"type": "token", "id": 1, "text": "no such token"})
    assert reply["error"].startswith("AttributionError: 'no such token' is not one token")
    asked = {**view.question, "against": view.question["target"]}
    reply = {}
    while "error" not in reply:
        reply, _ = view.answer({"type": "explain", "id": 2, **asked})
    assert "compared with itself" in reply["error"]
    assert "error" not in view.answer({"type": "explain", "id": 3, **view.question})[0]


def test_a_token_by_its_text_or_number(view, model):
    nine = model.tokenizer.encode("9")[0]
    assert view.answer_token("9") == {"id": nine, "text": "9"}, "a digit is a text first"
    assert view.answer_token("1155") == {"id": 1155, "text": model.tokenizer.token_text(1155)}
    with pytest.raises(AttributionError):
        view.answer_token("99999999")


def test_other_questions(chat, model):
    view = Why(chat)
    assert view.question["position"] == view.meta["answer"][0]
    why = view.explain("0", against="9")
    assert why.target[1] == "0" and why.against[1] == "9" and why is view.attribution
    assert view.question["position"] == why.position
    assert view.question["against"] == model.tokenizer.encode("9")[0]
    view.explain_all()
    start, stop = view.meta["answer"]
    explained = {key[1] for key in view._jobs.done() if key[0] == "explain"}
    assert set(range(start, stop)) <= explained


@pytest.mark.parametrize("method", ["gradient", "direct", "integrated"])
def test_the_check_removes_the_largest_and_as_many_others(chat, method):
    view = Why(chat, target="0", method=method)
    found = finished(view.answer_check, view.question)["effects"]
    effects = view.attribution.check(view.meta["checked"])
    asked = [e.kind for e in effects if not e.control]
    assert len(asked) == view.meta["checked"], "and of the embedding there is no other"
    assert len(found) == len(effects) == 2 * len(asked) - asked.count("embedding")
    for (kind, layer, index, share, measured, control, text), effect in zip(found, effects):
        assert (text is None) == (kind != "position")
        assert (kind, layer, index) == (effect.kind, effect.layer, effect.index)
        assert (share, control) == (effect.share, effect.control)
        assert measured == pytest.approx(effect.measured, abs=1e-4)


def test_answering_again_without_parts(view, model):
    """From the explained place on: as it is, without the part, and without a random other."""
    parts = view.attribution.top(4, "head")
    wanted = [[p.kind, p.layer, p.index] for p in parts]
    found = finished(view.answer_without, view.question, wanted, tokens=4)
    as_it_is, without, control = found["answers"]
    tokens = view.trace_of().tokens
    at = view.question["position"]
    assert as_it_is["tokens"] == tokens.texts[at : at + 4]
    assert without["name"] == "Without " + ", ".join(map(str, parts))
    assert control["name"].startswith("Control: without layer") and control["divergence"]
    silent = [g4.ScaleHeads(p.layer, [p.index], 0.0) for p in parts]
    with model.intervene(*silent):
        stream = g4.stream(
            model, tokens.ids[:at].tolist(), options={"temperature": 0, "max_tokens": 1}
        )
        first = [event.text for event in stream if hasattr(event, "logprob")]
    if without["parts"] == 0:  # the prompt was read unchanged there and changed here
        assert first[0] != as_it_is["tokens"][0]
    with pytest.raises(AttributionError, match="cannot be removed"):
        finished(view.answer_without, view.question, [["head", 99, 0]])


@pytest.mark.parametrize("method", ["gradient", "direct"])
def test_answering_again_without_each_kind_of_part(chat, method):
    view = Why(chat, target="0", method=method)
    kinds = {p.kind for p in view.attribution.parts}
    assert kinds == {"embedding", "head", "mlp", "expert", "per_layer"}
    names = {"embedding": "token embedding", "mlp": "MLP", "per_layer": "per-layer embedding"}
    for kind in sorted(kinds):
        part = view.attribution.top(1, kind)[0]
        asked = [[part.kind, part.layer, part.index]]
        found = finished(view.answer_without, view.question, asked, tokens=2)["answers"]
        assert len(found) == (2 if kind == "embedding" else 3), "there is one embedding"
        assert names.get(kind, kind) in found[1]["name"] and "counts as zero" in found[1]["note"]
        assert found[1]["mean"] > 0
        if kind == "embedding" and method == "gradient":  # nothing of the question is read
            assert found[1]["tokens"] != found[0]["tokens"] and found[1]["mean"] > 0.5


def test_answering_again_without_a_token_that_was_read(view):
    """Nothing may read the note's digit; and as a control, nothing may read another word."""
    tokens = view.trace_of().tokens
    digit = tokens.find("208")[0].start + 1
    asked = [["position", None, digit]]
    as_it_is, hidden, control = finished(view.answer_without, view.question, asked, tokens=3)[
        "answers"
    ]
    assert hidden["name"] == f"Without token {digit} “0”" and "nothing reads" in hidden["note"]
    assert as_it_is["tokens"][0] == "0" != hidden["tokens"][0]
    assert control["name"].startswith("Control: without token")
    last = view.question["position"] - 1
    with pytest.raises(AttributionError, match="cannot be removed"):
        finished(view.answer_without, view.question, [["position", None, last]])


@pytest.mark.parametrize("seed", range(4))
def test_controls_are_others_of_the_same_kind(seed):
    why = make_why(seed=seed)
    there = {(part.kind, part.layer, part.index): part for part in why.sources}
    kinds = why.tokens.kinds
    parts = [*why.top(5, "head", "expert", "mlp", "per_layer"), *why.top(3, "position")]
    others = drawn_beside(parts, there, kinds)
    assert others == drawn_beside(parts, there, kinds), "the same every time"
    for part, other in zip(parts[-3:], others[-3:]):
        assert kinds[part.index] == kinds[other.index], "a patch for a patch, a word for a word"
    places = [(p.kind, p.layer, p.index) for p in [*parts, *others]]
    assert len(set(places)) == 2 * len(parts)
    assert [p.kind for p in parts] == [p.kind for p in others]


def test_a_question_nobody_waits_for_ends_and_can_be_asked_again(chat, monkeypatch):
    """Pointing at one token after the other does not queue up explanations."""
    view = Why(chat)
    go, ended = threading.Event(), []
    told = view._told
    attribute = told.attribute

    def slow(question, progress):
        if not go.is_set():
            go.wait(PATIENCE)
            try:
                progress(0.5)
            except Superseded:
                ended.append(question.position)
                raise
        return attribute(question, progress)

    monkeypatch.setattr(told, "attribute", slow)
    start, method = view.meta["answer"][0], view.question["method"]
    for position in (start, start + 1):
        assert view.answer_explain(position, method) == {"running": 0.0}
    go.set()
    until(lambda: ended == [start])
    content, _ = finished(view.answer_explain, start + 1, method)
    assert content["position"] == start + 1
    content, _ = finished(view.answer_explain, start, method)
    assert content["position"] == start, "it is computed when it is wanted again"


def test_a_span_of_the_answer(chat, model):
    view = Why(chat, target="key 208")
    start, stop = view.question["position"], view.question["stop"]
    assert view.trace_of().tokens.texts[start:stop] == [" key", " 2", "0", "8"]
    why = g4.attribute(model, chat, "key 208", method=view.question["method"])
    content, bulk = finished(view.answer_explain, **view.question)
    assert content["stop"] == stop and content["target"] == [None, " key 208"]
    np.testing.assert_allclose(decoded(content, bulk)["positions"], why.positions, atol=1e-4)


@pytest.mark.parametrize("method", ["gradient", "direct", "integrated"])
def test_every_method_is_offered_and_answers(chat, method):
    view = Why(chat, target="0", method=method)
    assert method in view.meta["methods"]
    content, bulk = finished(view.answer_explain, **view.question)
    arrays = decoded(content, bulk)
    assert ("positions" in arrays) == (method != "direct")
    assert ("heads" in arrays) == (method != "integrated")


def test_one_selection_for_all_views(chat):
    trace = chat.trace(attention=None)
    view = Why(chat, trace=trace)
    routing = g4.widgets.Routing(trace)
    trace.selection.update(token=5, layer=2, head=1)
    assert view.selection == routing.selection == trace.selection.as_dict()
    view.selection = {**view.selection, "expert": 3}
    assert trace.selection.expert == 3 and routing.selection["expert"] == 3


def test_an_attribution_alone_shows_what_it_holds(tmp_path):
    why = make_why()
    view = Why(g4.attribution.open_attribution(why.save(tmp_path / "a.g4why")))
    assert not view.meta["live"]
    assert view.meta["methods"] == ["gradient"] and view.meta["n"] == 240
    assert [m["kind"] for m in view.meta["media"]] == ["image", "audio"]
    content, bulk = finished(view.answer_explain, **view.question)
    assert not content["checkable"]
    np.testing.assert_array_equal(decoded(content, bulk)["positions"], why.positions)
    assert view.answer_row() == [[why.target[1], why.target[0], None, []]]
    for call in (
        lambda: view.answer_explain(7, "gradient"),
        lambda: view.answer_token("9"),
        lambda: view.explain("9"),
        lambda: view.answer_without(view.question, [["head", 0, 0]]),
        lambda: finished(view.answer_check, view.question),
    ):
        with pytest.raises(AttributionError):
            call()


def test_an_attribution_with_its_model_is_alive(chat, model):
    why = g4.attribute(model, chat, "8")
    view = Why(why, model=model)
    assert view.meta["live"] and view.attribution is why
    assert view.explain("0").target[1] == "0"
    assert view.meta["answer"][0] <= why.position < view.meta["answer"][1]


def test_an_attribution_without_tokens_shows_its_parts(model):
    old = make_why(tokens=None, positions=None, media=[])
    with pytest.raises(AttributionError, match="holds no tokens"):
        Why(old, model=model)
    view = Why(old)
    assert view.meta["n"] == 0 and view.attribution.parts
    assert view.snapshot().page and view.drawing().svg()


def test_a_prompt_widget_asks_here(model):
    """Its tokens are explained as they were written, after what was read before them."""
    prompt = Prompt(g4.Chat(model, options={"temperature": 0, "max_tokens": 20}))
    prompt.send = lambda content, buffers=None: None
    prompt.say(ASKED)
    assert prompt.wait(PATIENCE)
    with pytest.raises(ChatError, match="open"):
        prompt.answer_explain(1, 0)
    assert not prompt.explains
    view = Why(prompt)
    assert prompt.explains
    tokens = prompt.answer_tokens(1)
    at = next(i for i, (text, *_) in enumerate(tokens) if text == "0")
    other = tokens[at][2][1][0]
    prompt.answer_explain(1, at, other)
    assert view.question["against"] == other
    assert view.trace_of().tokens.texts[view.question["position"]] == "0"
    prompt.say("Count from 3 to 6.")
    assert prompt.wait(PATIENCE)
    before = view.meta["revision"]
    prompt.answer_explain(3, 2)
    assert view.meta["revision"] == before + 1, "another conversation"
    written = [text for text, *_ in prompt.answer_tokens(3)]
    start, _ = view.meta["answer"]
    assert view.trace_of().tokens.texts[start : start + len(written)] == written
    assert view.question["position"] == start + 2
    prompt.answer_explain(1, at)
    assert view.meta["n"] < start, "of an earlier answer, what came before it"
    view.close()
    del view

    def gone():
        gc.collect()
        return prompt._explainer() is None

    until(gone)
    with pytest.raises(ChatError, match="open"):
        prompt.answer_explain(1, 0)
    assert not prompt.explains


def test_a_snapshot_keeps_what_was_asked(chat):
    view = Why(chat, target="0", method="direct")
    part = view.attribution.top(1, "head")[0]
    finished(view.answer_check, view.question)
    finished(view.answer_without, view.question, [["head", part.layer, part.index]], tokens=3)
    start, method = view.meta["answer"][0], view.question["method"]
    finished(view.answer_explain, start, method, view.trace_of().tokens.ids[start].item())
    answers = {}
    for key, reply in view.snapshot().answers.items():
        answers.setdefault(json.loads(key)["type"], []).append((json.loads(key), reply))
        assert "error" not in reply, reply
        assert "running" not in (reply["content"] or {})
    asked = [request for request, _ in answers["explain"]]
    assert {**view.question, "type": "explain"} in asked
    assert start in [request["position"] for request in asked]
    assert len(answers["check"]) == len(answers["without"]) == len(answers["row"]) == 1
    assert answers["tokens"] and answers["ids"] and answers["export"]


def test_pages_and_pictures_cannot_be_broken_out_of():
    why = make_why(media=make_media())
    why.tokens.texts[30] = "</script><script>alert(1)</script>"
    view = Why(why)
    page = view.snapshot().page
    assert "alert(1)</script>" not in page and "https://" not in page
    svg = view.drawing().svg()
    assert "<script>" not in svg and "<b>other</b>" not in svg and "&lt;b&gt;other" in svg
    assert view.snapshot_image().size[0] > 500
