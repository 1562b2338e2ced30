"""What can be explained: tokens, spans, functions; and what cannot says so."""

import mlx.core as mx
import numpy as np
import pytest

import gemma4_mlx as g4
from gemma4_mlx.chat import Message, Text
from gemma4_mlx.errors import AttributionError


@pytest.fixture(scope="module")
def model():
    return g4.load()


@pytest.fixture(scope="module")
def chat(model):
    chat = g4.Chat(model)
    chat.messages = [
        Message("user", [Text("Note: key 208. What is the key?")]),
        Message("assistant", [Text("The key is 208.")]),
    ]
    return chat


@pytest.fixture(scope="module")
def said(model, chat):
    """Ids of the conversation, where its answer begins, and its logits before the cap (n, V)."""
    ids = chat.inputs().tokens
    texts = [model.tokenizer.token_text(i) for i in ids]
    begin = len(texts) - texts[::-1].index("model") + 1
    hidden = model.hidden(mx.array(ids)[None])
    return ids, begin, np.array(model.language_model.uncapped(hidden))[0]


def span_sum(said, start, stop):
    ids, _, logits = said
    return sum(logits[i - 1, ids[i]] for i in range(start, stop))


@pytest.mark.parametrize("method", ["gradient", "integrated"])
def test_a_span_of_the_answer(model, chat, said, method):
    """By text, by ids and by place: the sum of its tokens' logits."""
    ids, begin, _ = said
    start = begin + [model.tokenizer.token_text(i) for i in ids[begin:]].index(" 2")
    few = {"steps": 2} if method == "integrated" else {}
    by_text = g4.attribute(model, chat, " 208", method=method, **few)
    assert (by_text.position, by_text.stop) == (start, start + 3)
    assert by_text.target == (None, " 208") and by_text.against is None
    assert abs(by_text.total - span_sum(said, start, start + 3)) < 1e-3
    if method == "integrated":
        return
    by_ids = g4.attribute(model, chat, ids[start : start + 3], method=method)
    by_place = g4.attribute(model, chat, position=(start, start + 3), method=method)
    again = g4.attribute(model, chat, " 208", position=start, method=method)
    for other in (by_ids, by_place, again):
        assert other.target == by_text.target and other.total == by_text.total
        assert np.array_equal(other.positions, by_text.positions)
    assert not by_text.positions[start + 2 :].any() and by_text.positions[start + 1] != 0


@pytest.mark.float32
def test_shares_of_a_span_are_its_tokens(model, chat, said, monkeypatch):
    """They add up, also where few rows of logits are held at once; and a span of one is a token."""
    start, n = said[1], len(said[0])
    each = [
        g4.attribute(model, chat, position=(i, i + 1), method="gradient")
        for i in range(start, n - 1)
    ]
    token = g4.attribute(model, chat, position=start, method="gradient")
    assert np.array_equal(each[0].positions, token.positions) and each[0].total == token.total
    monkeypatch.setattr("gemma4_mlx.attribution.target.ROWS", 2)
    whole = g4.attribute(model, chat, position=(start, n - 1), method="gradient")
    for name in ("positions", "heads", "mlp", "per_layer", "stream"):
        expected = sum(getattr(one, name) for one in each)
        error = np.abs(getattr(whole, name) - expected).max()
        assert error < 1e-4 * np.abs(expected).max(), name
    assert abs(whole.total - sum(one.total for one in each)) < 1e-3


def test_a_function_of_the_logits(model, chat, said):
    """Of one row or of a span's, capped; named as it is called."""
    ids, begin, logits = said
    capped = 30 * np.tanh(logits / 30)

    def gap(logits):
        return logits[ids[begin]] - logits.max()

    why = g4.attribute(model, chat, gap, method="gradient")
    assert why.target == (None, "gap") and why.position == begin
    row = capped[begin - 1]
    assert why.total == pytest.approx(row[ids[begin]] - row.max(), abs=1e-3)
    seen = []
    several = g4.attribute(
        model, chat, lambda x: seen.append(x.shape) or x.mean(), method="gradient",
        position=(begin, begin + 4),
    )  # fmt: skip
    assert set(seen) == {(4, model.config.text.vocab_size)}
    assert several.total == pytest.approx(capped[begin - 1 : begin + 3].mean(), abs=1e-3)
    assert g4.attribute(model, "Note:", lambda x: x[5], method="gradient").position == 3


def test_a_word_is_found_as_the_answer_writes_it(model, chat, said):
    """A word has another token in a sentence than by itself."""
    ids, begin, _ = said
    texts = [model.tokenizer.token_text(i) for i in ids]
    inside = next(
        i for i in range(begin, len(ids)) if texts[i].startswith(" ") and texts[i].strip()
    )
    word = texts[inside].strip()
    assert model.tokenizer.encode(word) != [ids[inside]]
    assert g4.attribute(model, chat, word).position == inside


def no_number(logits):
    return logits[:2]


def a_float(logits):
    return float(logits[0].item()) if logits.size else 0.0


@pytest.mark.parametrize(
    "wrong, words",
    [
        (dict(target="208"), r"not one token but 3 \('2', '0', '8'\), and there is no answer"),
        (dict(target=""), "'' is no token"),
        (dict(target=[]), "is no token, and no span"),
        (dict(target=1 << 30), "token 1073741824 does not exist: ids go from 0"),
        (dict(target=[5, -1]), "token -1 does not exist"),
        (dict(against=-1), "token -1 does not exist"),
        (dict(against="208"), "not one token but 3"),
        (dict(target=2.5), "id or its text, a span of them, or a function"),
        (dict(target=5, against=5), "compared with itself"),
        (dict(position=0), "position 0: of 3 tokens those at 1 to 2 can be explained"),
        (dict(position=4), "position 4"),
        (dict(position="a"), "position 'a' is no whole number"),
        (dict(position=(0, 2)), r"position \(0, 2\): a span of 3 tokens starts at 1"),
        (dict(position=(2, 2)), "holds a token"),
        (dict(position=(1, 4)), "stops at 3 or earlier"),
        (dict(position=(1, 2, 3)), "is no whole number, and no pair"),
        (dict(position=(1, 3), method="direct"), "'direct' takes one token's logit apart"),
        (dict(target=no_number, method="direct"), "'direct' takes one token's logit apart"),
        (dict(position=(1, 3), against=4), "against= is for one token"),
        (dict(target=[9, 9], position=1), r"at 1 stands '.*', not \[9, 9\]"),
        (dict(target=no_number), r"computes one number .* returned shape \(2,\)"),
        (dict(target=a_float), "returned float"),
        (dict(target=lambda logits: logits[0] / 0), "is not finite"),
        (dict(method="magic"), "method 'magic'; there is 'direct'"),
        (dict(method="patching"), "give it as corrupt="),
        (dict(corrupt=[5, 6, 8]), "'gradient' takes no corrupt prompt; 'patching' does"),
        (dict(baseline=5), "'gradient' takes no baseline"),
        (dict(method="direct", steps=5), "'direct' takes no baseline and no steps"),
        (dict(method="integrated", steps=0), "an integral of 0 steps"),
        (dict(method="integrated", baseline="208"), "not one token but 3"),
        (dict(chunk=0), "a chunk of 0"),
    ],
)
def test_wrong_questions_say_so(wrong, words, model):
    with pytest.raises(AttributionError, match=words):
        g4.attribute(model, [5, 6, 7], **{"method": "gradient"} | wrong)


def test_what_the_answer_does_not_say(model, chat, said):
    _, begin, logits = said
    for target in ("935", [5, 6]):
        with pytest.raises(
            AttributionError, match=f"answer does not say .*{begin} to {len(logits)}"
        ):
            g4.attribute(model, chat, target, method="gradient")
    with pytest.raises(AttributionError, match=r"at \d+ stands .*, not '935'"):
        g4.attribute(model, chat, "935", position=begin, method="gradient")
