"""The stream of events: order, text, probabilities, stopping, cancelling."""

import sys
import threading
import time
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import PATIENCE

from gemma4_mlx.errors import ContextError, GenerationError
from gemma4_mlx.generation import (
    Finish,
    Progress,
    PromptCache,
    SamplingOptions,
    ThinkingBudget,
    Token,
    stream,
)
from gemma4_mlx.generation.constrained import Constraint
from gemma4_mlx.generation.prefill import Prompt
from gemma4_mlx.generation.stopping import AnswerText, TextGate, stop_token_ids
from gemma4_mlx.model.cache import FullKVCache
from gemma4_mlx.processing.inputs import MediaSpan, ModelInputs

PROMPT = [2, *range(400, 440)]
OPEN = {"ignore_eos": True}


def run(model, prompt=PROMPT, **arguments):
    options = {"max_tokens": 12, **OPEN, **arguments.pop("options", {})}
    return list(stream(model, prompt, options=options, **arguments))


def parts(events):
    return [[e for e in events if isinstance(e, kind)] for kind in (Progress, Token, Finish)]


def test_events_come_in_order(tiny):
    begun = time.perf_counter()
    progress, tokens, finish = parts(events := run(tiny(), prefill_chunk=16))
    took = time.perf_counter() - begun
    assert events == progress + tokens + finish and len(finish) == 1
    assert [(p.done, p.total) for p in progress] == [(n, 41) for n in (0, 16, 32)]
    assert [t.index for t in tokens] == list(range(12))
    times = [e.seconds for e in progress + tokens]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= took
    done = finish[0]
    assert done.prefill_seconds == pytest.approx(tokens[0].seconds, abs=took / 2)
    assert times[-1] <= done.prefill_seconds + done.decode_seconds <= took
    assert (done.reason, done.prompt_tokens, done.generated_tokens) == ("length", 41, 12)
    assert done.peak_memory > 0 and done.tokens_per_second > 0 and done.seed is None
    assert not parts(run(tiny(), progress=False))[0]


def test_how_long_an_answer_may_be():
    """What the context leaves, its last token unread; beyond it at least 2,048."""

    def limit(n, context, asked=None, beyond=False):
        run = SimpleNamespace(prompt=range(n), options=SimpleNamespace(max_tokens=asked))
        return sys.modules[stream.__module__]._Run._limit(run, context, beyond)

    assert limit(100, 1000) == 901 and limit(1000, 1000) == 1
    assert limit(100, 1000, 900) == 900 and limit(100, 1000, 902) == 901
    assert limit(100, 8192, beyond=True) == 8092 and limit(100, 1000, beyond=True) == 2048
    assert limit(100, 1000, 5000, beyond=True) == 5000
    with pytest.raises(ContextError, match="1,001 tokens, the model's context is 1,000"):
        limit(1001, 1000)


def test_a_short_new_turn_is_one_pass(tiny, monkeypatch):
    """The pass that predicts its answer's first token; a longer one is read before."""
    model, passes = tiny(), []

    def counted(*arguments, decode=model._decode, **named):
        passes.append(arguments[0].shape[1])
        return decode(*arguments, **named)

    monkeypatch.setattr(model, "_decode", counted)
    cache = PromptCache(model)
    run(model, PROMPT, cache=cache, options={"max_tokens": 1})
    run(model, [*PROMPT, *range(500, 532)], cache=cache, options={"max_tokens": 1})
    assert passes == [40, 1, 32]


def test_a_prompt_is_given_room_once(tiny, monkeypatch):
    """A full layer's keys are not copied chunk by chunk; a sliding one's are few."""
    made, make_room = [], FullKVCache._make_room
    monkeypatch.setattr(
        FullKVCache, "_make_room", lambda self, *new: (made.append(self), make_room(self, *new))
    )
    cache = PromptCache(tiny())
    for prompt in (PROMPT, [*PROMPT, *range(500, 540)]):
        made.clear()
        run(cache.model, prompt, cache=cache, prefill_chunk=8, options={"max_tokens": 1})
        full = [entry for entry in cache.entries if isinstance(entry, FullKVCache)]
        assert made == full and full
        assert all(entry.keys.shape[2] == len(prompt) for entry in full)


@pytest.mark.parametrize("top_k", [3, 20, 0])
def test_alternatives_change_no_draw(tiny, top_k):
    options = {"temperature": 2.0, "top_k": top_k, "seed": 5, "max_tokens": 12}
    plain, *others = (
        [token.id for token in parts(run(tiny(), alternatives=n, options=options))[1]]
        for n in (0, 1, 5, 40)
    )
    assert len(set(plain)) > 3 and all(ids == plain for ids in others)


def test_logprobs_and_alternatives_are_the_models(tiny):
    """Whatever temperature, penalties or masks did to the choice."""
    model = tiny()
    _, tokens, _ = parts(
        run(
            model,
            alternatives=5,
            options={"temperature": 1.5, "seed": 3, "repetition_penalty": 1.3, "top_k": 50},
        )
    )
    ids = [t.id for t in tokens]
    logits = model(mx.array([PROMPT + ids])).astype(mx.float32)[0, len(PROMPT) - 1 : -1]
    wanted = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    for token, row in zip(tokens, wanted):
        assert token.logprob == pytest.approx(row[token.id], abs=5e-5)
        best = np.argsort(-row)[:5]
        assert [a.id for a in token.alternatives] == list(best)
        assert [a.logprob for a in token.alternatives] == pytest.approx(row[best], abs=5e-5)
        assert token.alternatives[0].text == model.tokenizer.token_text(int(best[0]))


def test_what_is_ruled_out_keeps_its_logprob(tiny):
    """Tokens that options or guides forbid stand in the alternatives as the model ranks them."""
    model = tiny()
    best = [
        a.id
        for a in parts(run(model, alternatives=3, options={"max_tokens": 1}))[1][0].alternatives
    ]
    options = {"max_tokens": 1, "suppress_tokens": best[:1], "logit_bias": {best[1]: -50.0}}
    _, plain, _ = parts(run(model, alternatives=3, options={"max_tokens": 1}))
    _, held, _ = parts(run(model, alternatives=3, options=options))
    assert held[0].alternatives == plain[0].alternatives and held[0].id == best[2]
    assert held[0].logprob == plain[0].alternatives[2].logprob
    options = {"max_tokens": 1, "suppress_tokens": best[:2]}  # written in place
    _, held, _ = parts(run(model, alternatives=3, options=options))
    assert held[0].alternatives == plain[0].alternatives and held[0].id == best[2]
    forced = Forced([best[2]])
    _, led, _ = parts(run(model, alternatives=3, options={"max_tokens": 1}, guides=[forced]))
    assert led[0].alternatives == plain[0].alternatives
    assert led[0].logprob == plain[0].alternatives[2].logprob


def test_greedy_equals_mlx_lm(tiny):
    from mlx_lm.generate import generate_step

    model = tiny("moe")
    theirs = [int(t) for t, _ in generate_step(mx.array(PROMPT), model, max_tokens=12)]
    assert [t.id for t in parts(run(model))[1]] == theirs


def test_text_joins_to_the_whole_answer(tiny):
    model = tiny()
    for seed in range(2):
        _, tokens, (finish,) = parts(
            run(model, options={"temperature": 1.0, "seed": seed, "max_tokens": 60})
        )
        joined = "".join(t.text for t in tokens) + finish.text
        assert joined == model.tokenizer.decode([t.id for t in tokens])


def test_raw_text_gets_bos(tiny):
    model = tiny()
    *_, finish = stream(model, "Hello", options={"max_tokens": 1})
    assert finish.prompt_tokens == 1 + len(model.tokenizer.encode("Hello"))


# Stopping


def test_stop_tokens_of_all_files_are_united(tiny):
    model = tiny()
    assert stop_token_ids(model, SamplingOptions()) >= {1, 106, 50}
    assert stop_token_ids(model, SamplingOptions(stop_tokens=[7], ignore_eos=True)) == {7}


def test_a_stop_token_ends_the_text_before_it(tiny):
    model = tiny()
    ids = [t.id for t in parts(run(model))[1]]
    _, tokens, (finish,) = parts(run(model, options={"stop_tokens": [ids[4]]}))
    at = ids.index(ids[4])
    assert [t.id for t in tokens] == ids[: at + 1]
    assert tokens[-1].stop and finish.reason == "stop"
    assert "".join(t.text for t in tokens) == model.tokenizer.decode(ids[:at])


def test_stop_strings_across_tokens(tiny):
    model = tiny()
    ids = [t.id for t in parts(run(model, options={"max_tokens": 30}))[1]]
    whole = model.tokenizer.decode(ids)
    for start in (5, 17, 30):
        stop = whole[start : start + 6]
        _, tokens, (finish,) = parts(run(model, options={"max_tokens": 30, "stop": stop}))
        assert (finish.reason, finish.stop_string) == ("stop_string", stop)
        assert "".join(t.text for t in tokens) == whole[: whole.index(stop)]
        assert len(tokens) < 30


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_the_gate_never_shows_part_of_a_stop_string(size):
    text, stops = "a <en> b <end> never <halt>", ("<end>", "<halt>", "er <")
    gate, shown = TextGate(stops), ""
    for i in range(0, len(text), size):
        shown += gate.add(text[i : i + size])
        assert "a <en> b ".startswith(shown)
    assert (shown, gate.met, gate.flush()) == ("a <en> b ", "<end>", "")
    gate = TextGate(("<end>", "<e"))
    assert gate.add("a<end>") == "a" and gate.met == "<end>", "of two at one place the first given"
    gate = TextGate(stops)
    assert gate.add("x <e") + gate.flush() == "x <e" and gate.met is None


STRETCHES = {
    "words": "{}",
    "thought": "<|channel>thought\n{}\n<channel|>",
    "call": '<|tool_call>call:f{{a:<|"|>{}<|"|>}}<tool_call|>',
}


@settings(max_examples=200, deadline=None)
@given(
    stretches=st.lists(st.tuples(st.sampled_from([*STRETCHES]), st.text("aSTOP\n", max_size=12))),
    stops=st.sampled_from([("\n",), ("STOP",), ("OP", "T\n", "thought"), ()]),
    opened=st.booleans(),
)
def test_a_stop_string_ends_the_answer_alone(tokenizer, stretches, stops, opened):
    """Against a search in the words alone. What was told never runs ahead of it."""
    prompt = "<|turn>model\n<|channel>thought\n" if opened else "<|turn>model\n"
    written, wanted = ("a\nSTOP<channel|>",) * 2 if opened else ("", "")
    met, answer = None, ""  # the words since the last thought or call
    for kind, words in stretches:
        part = STRETCHES[kind].format(words)
        written += part
        if met is None:
            answer = answer + words if kind == "words" else ""
            found = [(answer.find(stop), stop) for stop in stops if stop in answer]
            met = min(found)[1] if found else None
            wanted += part
            if met is not None:
                wanted = wanted[: len(wanted) - len(answer) + min(found)[0]]
    text = AnswerText(tokenizer, stops, tokenizer.encode(prompt, allow_special=True))
    shown = ""
    for token in tokenizer.encode(written, allow_special=True):
        shown += text.add(token)
        assert wanted.startswith(shown)
        if text.met is not None:
            break
    assert (shown + text.finish(), text.met) == (wanted, met)


def test_an_answer_may_begin_in_the_middle_of_a_character(tokenizer):
    """Tokens that it was made to begin with are text of its own, but no stop string."""
    text = AnswerText(tokenizer, ("b",), tokenizer.encode("x"))
    smile = [tokenizer.id(f"<0x{byte:02X}>") for byte in "\N{GRINNING FACE}".encode()]
    begun = [*tokenizer.encode("abc"), *smile[:2]]
    assert "".join(map(text.begin, begun)) == "abc"
    assert [text.add(id) for id in smile[2:]] == ["", "\N{GRINNING FACE}"]
    assert "".join(map(text.add, tokenizer.encode("aba"))) + text.finish() == "a"
    assert text.met == "b"


class Forced:
    """A guide that has the model write a text."""

    finished = complete = True

    def __init__(self, tokens):
        self.tokens = tokens

    def start(self, prompt, vocab_size, stops):
        self.left, self.finished = list(self.tokens), False

    def allowed(self):
        return self.left[0]

    def accept(self, token):
        self.left.pop(0)
        self.finished = not self.left


@pytest.mark.parametrize("grammar", [False, True])
def test_stop_strings_go_by_thoughts_and_calls(tiny, grammar):
    model = tiny()
    tools = {"f": {"type": "object", "properties": {"a": {"type": "string"}}}}
    constraint = Constraint.from_tools(tools, model.tokenizer, thinking=True) if grammar else None
    call = '<|tool_call>call:f{a:<|"|>one\ntwo<|"|>}<tool_call|>'
    for text, shown, reason in [
        (f"<|channel>thought\na\nb\n<channel|>One.{call}", None, "stop"),
        ("<|channel>thought\na\n<channel|>One\ntwo", "<|channel>thought\na\n<channel|>One", None),
    ]:
        forced = Forced(model.tokenizer.encode(text, allow_special=True))
        _, tokens, (finish,) = parts(
            run(model, constraint=constraint, guides=[forced],
                options={"max_tokens": 60, "stop": ["\n"]})
        )  # fmt: skip
        assert finish.reason == (reason or "stop_string")
        assert "".join(t.text for t in tokens) == (text if shown is None else shown)


def test_errors_come_before_anything_is_computed(tiny):
    model = tiny()
    for prompt in ([], ""):
        with pytest.raises(ContextError, match="empty"):
            run(model, prompt)
    with pytest.raises(ContextError, match=r"4,097 tokens.*4,096.*beyond_context"):
        run(model, [5] * 4097)
    with pytest.raises(GenerationError, match="token 2048"):
        run(model, [2048])
    with pytest.raises(GenerationError, match="alternatives"):
        run(model, alternatives=-1)
    with pytest.raises(GenerationError, match="another model"):
        run(model, cache=PromptCache(tiny("moe")))
    with pytest.raises(GenerationError, match=r"a loaded model, such as g4.load\(...\), not str"):
        run("google/gemma-4-E2B-it")


@pytest.mark.parametrize("prompt", [[{"role": "user", "content": "Hi"}], [[1, 2]], None, ["Hi"]])
def test_a_prompt_that_is_none(tiny, prompt):
    with pytest.raises(GenerationError, match="A prompt is text, token ids or ModelInputs"):
        run(tiny(), prompt)


def test_text_needs_a_tokenizer(tiny, monkeypatch):
    monkeypatch.setattr(tiny(), "tokenizer", None)
    with pytest.raises(GenerationError, match="no tokenizer"):
        run(tiny(), "Hi")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prefill_chunk": 0}, "prefill_chunk must be 1 token or more, not 0"),
        ({"prefill_chunk": "16"}, "prefill_chunk"),
        ({"cache": []}, r"cache takes a PromptCache\(model\), not list"),
        ({"guides": SimpleNamespace(allowed=None)}, "a list of guides, not SimpleNamespace"),
        ({"guides": [3]}, "3 is no guide"),
        ({"constraint": SamplingOptions}, "SamplingOptions'> is no guide: a schema goes to"),
    ],
)
def test_arguments_of_another_kind(tiny, arguments, words):
    with pytest.raises(GenerationError, match=words):
        run(tiny(), **arguments)


def test_the_context_ends_generation(tiny):
    model = tiny()
    prompt = [5] * 4090  # of 4,096
    _, tokens, (finish,) = parts(run(model, prompt, options={"max_tokens": None}))
    assert (len(tokens), finish.reason) == (7, "length")
    *_, finish = run(model, [5] * 4097, options={"max_tokens": 3}, beyond_context=True)
    assert finish.generated_tokens == 3


# Cancelling


def test_cancel_takes_effect_within_one_token(tiny):
    model, cancel, cache = tiny(), threading.Event(), PromptCache(tiny())
    ids = []
    for event in stream(
        model, PROMPT, options={"max_tokens": 500, **OPEN}, cancel=cancel, cache=cache
    ):
        if isinstance(event, Token):
            ids.append(event.id)
            if len(ids) == 5:
                cancel.set()
    assert isinstance(event, Finish) and event.reason == "cancelled" and len(ids) <= 6
    assert cache.tokens == PROMPT + ids
    assert ids == [t.id for t in parts(run(model))[1]][: len(ids)]


def test_cancel_from_another_thread(tiny):
    cancel, begun = threading.Event(), threading.Event()
    other = threading.Thread(target=lambda: begun.wait(PATIENCE) and cancel.set())
    other.start()
    for event in stream(tiny(), PROMPT, options={"max_tokens": 3000, **OPEN}, cancel=cancel):
        begun.set()
        if isinstance(event, Token) and event.index == 5:
            other.join(PATIENCE)
    assert event.reason == "cancelled" and event.generated_tokens <= 7


def test_a_cancelled_prefill_goes_on_where_it_stopped(tiny):
    model, cancel, cache = tiny(), threading.Event(), PromptCache(tiny())
    prompt = [2, *(i % 1500 + 400 for i in range(300))]
    arguments = {"options": {"max_tokens": 8, **OPEN}, "prefill_chunk": 50}
    for event in stream(model, prompt, cancel=cancel, cache=cache, **arguments):
        if isinstance(event, Progress) and event.done == 100:
            cancel.set()
    assert event.reason == "cancelled" and event.generated_tokens == 0
    assert cache.tokens == prompt[:100]
    got = list(stream(model, prompt, cache=cache, **arguments))
    assert got[-1].reused_tokens == 100
    fresh = list(stream(model, prompt, **arguments))
    assert [e.id for e in got if isinstance(e, Token)] == [
        e.id for e in fresh if isinstance(e, Token)
    ]


@pytest.mark.parametrize("variant", ["shared", "moe"])
def test_reading_computes_no_layer_that_no_cache_needs(tiny, variant, monkeypatch):
    """Also where attention waits for each of its blocks, as with long prompts."""
    from gemma4_mlx.model import attention, sizes

    model, calls, attend = tiny(variant), [], attention.attend
    monkeypatch.setattr(sizes, "SCORE_BYTES", 2**16)  # blocks of a dozen queries
    monkeypatch.setattr(attention, "attend", lambda *a: calls.append(1) or attend(*a))
    tokens = mx.array(PROMPT * 9)[None]
    read, whole = model.make_cache(), model.make_cache()
    for part in (tokens[:, :20], tokens[:, 20:]):
        model.read(part, read)
    assert len(calls) == 2 * (model.config.text.first_kv_shared_layer - 1)
    model.hidden(tokens[:, :20], whole), model.hidden(tokens[:, 20:], whole)
    for a, b in zip(read, whole):
        assert a.offset == b.offset and all(map(mx.array_equal, a.state, b.state))
    seen = set()
    with model.observe(lambda name, layer, *_: seen.add(layer)):
        model.read(tokens, model.make_cache())
    assert seen >= set(range(len(model.layers))), "an observer is shown every layer"


@pytest.mark.parametrize("count", [1, 4])
def test_an_abandoned_stream_leaves_the_cache_consistent(tiny, count):
    model, cache = tiny(), PromptCache(tiny())
    events = stream(model, PROMPT, options={"max_tokens": 50, **OPEN}, cache=cache)
    ids = []
    while len(ids) < count:
        event = next(events)
        if isinstance(event, Token):
            ids.append(event.id)
    events.close()
    assert cache.tokens == PROMPT + ids
    assert {entry.offset for entry in cache.entries} == {len(cache.tokens)}
    *_, finish = run(model, PROMPT + ids, cache=cache)
    assert finish.reused_tokens == len(PROMPT + ids) - 1


@pytest.mark.parametrize("after", [1, 3, 10, 60])
def test_an_interruption_inside_the_model_leaves_the_cache_consistent(tiny, after):
    """A KeyboardInterrupt between two layers, in prefill or decoding."""
    model, cache, seen = tiny(), PromptCache(tiny()), []

    def interrupt(name, layer, value, geometry):
        seen.append(layer)
        if name == "layer_output" and seen.count(3) and len(seen) > after * 40:
            raise KeyboardInterrupt

    prompt = [2, *range(400, 500)]
    with pytest.raises(KeyboardInterrupt), model.observe(interrupt):
        list(
            stream(model, prompt, options={"max_tokens": 50, **OPEN}, cache=cache, prefill_chunk=40)
        )
    assert {entry.offset for entry in cache.entries} == {len(cache.tokens)}
    got = parts(run(model, prompt, cache=cache))[1]
    assert [t.id for t in got] == [t.id for t in parts(run(model, prompt))[1]]


# Pictures


def picture(start, stop, kind="image"):
    return MediaSpan(kind, start, stop, None, f"{kind}{start}", "a picture", 0)


def test_chunks_never_split_a_picture(tiny):
    model = tiny("vision")
    spans = [picture(5, 9), picture(12, 40), picture(41, 43), picture(50, 58, "audio")]
    inputs = ModelInputs([5] * 60, np.zeros(60, np.uint8), spans)
    prompt = Prompt.of(model, inputs)
    for size in (1, 3, 8, 16, 100):
        at, ends = 0, []
        while at < prompt.tail:
            after = prompt.chunk_end(at, size)
            assert after > at
            ends.append(at := after)
        assert at == prompt.tail == 59
        for span in spans[:3]:
            assert not any(span.start < end < span.stop for end in ends)
    last = ModelInputs([5] * 43, np.zeros(43, np.uint8), spans[:3])
    assert Prompt.of(model, last).tail == 41


@pytest.mark.parametrize("variant", ["vision", "shared"])
def test_pictures_in_chunks_equal_the_whole(tiny, variant, monkeypatch):
    model = tiny(variant)
    tokens = [2, *range(400, 410), 108, *[110] * 24, 112, *range(500, 530), 108, *[110] * 7, 112, 9]
    spans = [picture(12, 36), picture(68, 75)]
    types = np.array([t == 110 for t in tokens], np.uint8)
    inputs = ModelInputs(tokens, types, spans)
    rows = {
        s.key: mx.random.normal((s.stop - s.start, 32), key=mx.random.key(s.start)) for s in spans
    }
    encoded = []

    def encode_media(model, inputs, cache=None, start=0, progress=None):
        encoded.append(start)
        return [rows[s.key] if s.stop > start else None for s in inputs.media]

    monkeypatch.setattr("gemma4_mlx.generation.prefill.encode_media", encode_media)
    whole = model(mx.array([tokens]), features=mx.concatenate(list(rows.values())))[0, -1]
    whole = np.array(whole - mx.logsumexp(whole))
    for chunk in (7, 16, 2048):
        cache = PromptCache(model, snapshot_every=16)
        first = parts(run(model, inputs, prefill_chunk=chunk, cache=cache))[1][0]
        assert first.id == whole.argmax() and first.logprob == pytest.approx(whole.max(), abs=5e-5)
    shorter = ModelInputs([*tokens[:66], 7, 8], types[:68], spans[:1])
    encoded.clear()
    *_, finish = run(model, shorter, cache=cache)
    assert finish.reused_tokens == 66 and not encoded, "the picture is cached"


# Guides


def test_a_thinking_budget_closes_the_channel(tiny):
    model = tiny()
    opens, closes = 100, 101
    prompt = [2, 500, opens, *model.tokenizer.encode("thought\n")]
    guide = ThinkingBudget(model.tokenizer, 5)
    _, tokens, (finish,) = parts(run(model, prompt, guides=[guide]))
    ids = [t.id for t in tokens]
    assert finish.thinking_cut and finish.complete and finish.reason in ("stop", "length")
    assert closes in ids and ids.index(closes) in (5, 6) and guide.exhausted
    assert tokens[ids.index(closes) - 1].text.endswith("\n")
    _, tokens, (finish,) = parts(run(model, [2, 500], guides=[guide]))
    assert closes not in [t.id for t in tokens] and not finish.thinking_cut


@pytest.mark.parametrize("budget", [0, 3, 5, 20])
def test_a_thinking_budget_counts_over_all_channels(tokenizer, budget):
    """Of a turn, those that its prompt holds included; the turns before do not count."""

    def ids(text):
        return tokenizer.encode(text, allow_special=True)

    guide, vocabulary = ThinkingBudget(tokenizer, budget), tokenizer.vocab_size
    opens, closes = tokenizer.id("<|channel>"), tokenizer.id("<channel|>")
    thought = "<|channel>thought\none two\n<channel|>"
    spent = len(ids("one two\n"))
    for earlier in (0, 1, 2):
        prompt = ids(f"<|turn>model\n{thought * 9}<turn|>\n<|turn>model\n" + thought * earlier)
        guide.start(prompt, vocabulary, frozenset())
        left = max(0, budget - spent * earlier)
        if earlier and not left:
            mask = guide.allowed()
            assert not mask[opens] and mask.sum() == vocabulary - 1
            continue
        count = 0
        for token in ids("<|channel>thought\n"):
            assert guide.allowed() is None
            guide.accept(token)
        while guide.allowed() is None:
            guide.accept(600)
            count += 1
        assert count == left and guide.exhausted
        while (forced := guide.allowed()) != closes:
            guide.accept(forced)
        guide.accept(closes)
        assert not guide.allowed()[opens]


def test_the_users_random_numbers_stay_theirs(tiny):
    model = tiny()
    mx.random.seed(11)
    want = mx.random.normal((3,)).tolist()
    mx.random.seed(11)
    run(model, options={"temperature": 1.0, "seed": 4})
    assert mx.random.normal((3,)).tolist() == want
