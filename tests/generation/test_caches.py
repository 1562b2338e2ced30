"""The prompt cache: what it reuses is exactly what a fresh run would compute."""

import hashlib
import json
import random
import subprocess
import sys
import textwrap
import threading
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from gemma4_mlx.checkpoints import planner
from gemma4_mlx.errors import CheckpointError, GenerationError
from gemma4_mlx.generation import Finish, PromptCache, Token, engine, stream
from gemma4_mlx.generation.caches import CachedMedia
from gemma4_mlx.model.cache import SlidingKVCache

GREEDY = {"max_tokens": 6, "ignore_eos": True}


def tokens_of(events):
    return [event.id for event in events if isinstance(event, Token)]


def numbers(events):
    """(ids, logprobs, Finish) of a stream."""
    events = list(events)
    got = [event for event in events if isinstance(event, Token)]
    return [t.id for t in got], np.array([t.logprob for t in got]), events[-1]


def some_tokens(n, seed=0):
    return [2, *(random.Random(seed).randrange(371, 2000) for _ in range(n - 1))]


@pytest.mark.parametrize("variant", ["shared", "moe", "k_eq_v"])
def test_edits_anywhere_equal_a_fresh_run(tiny, variant):
    """A conversation far longer than the window (16), edited at random places."""
    model, chance = tiny(variant), random.Random(variant)
    cache = PromptCache(model, snapshot_every=64)
    prompt, common, reused, possible = some_tokens(300), 0, 0, 0
    for turn in range(12):
        ids, logprobs, finish = numbers(
            stream(model, prompt, options=GREEDY, cache=cache, prefill_chunk=48)
        )
        fresh_ids, fresh, _ = numbers(stream(model, prompt, options=GREEDY))
        assert ids == fresh_ids
        np.testing.assert_allclose(logprobs, fresh, atol=5e-5)  # 1e-5 of the largest logit
        assert cache.tokens == (prompt + ids)[: len(cache.tokens)]
        assert {entry.offset for entry in cache.entries} == {len(cache.tokens)}
        reused += finish.reused_tokens
        possible += common
        cut = chance.randrange(20, len(prompt)) if turn % 3 else len(prompt)
        answer = ids if cut == len(prompt) else []
        common = cut + len(answer)
        prompt = [*prompt[:cut], *answer, *some_tokens(chance.randrange(3, 60), seed=turn)[1:]]
    assert reused > 0.6 * possible, "snapshots must save most of the work"


def test_every_position_can_be_rewound_to(tiny):
    model, prompt = tiny(), some_tokens(200)
    cache = PromptCache(model, snapshot_every=32)
    list(stream(model, prompt, options=GREEDY, cache=cache, prefill_chunk=20))
    for position in range(195, 0, -13):
        fork = cache.fork()
        got = fork.rewind(position)
        assert position - 40 < got <= position and len(fork) == got
        rest = prompt[got : position + 1]
        logits = model(mx.array(rest)[None], fork.entries)[0, -1]
        fresh = model(mx.array(prompt[: position + 1])[None])[0, -1]
        np.testing.assert_allclose(np.array(logits), np.array(fresh), atol=5e-5)


def test_a_sliding_layer_steps_back_as_far_as_it_can(tiny):
    """And not one token further: what stands before the position must fill the window."""
    window = 8
    cache = SlidingKVCache(window)
    for _ in range(4):
        cache.update_and_fetch(*mx.zeros((2, 1, 1, 100, 4)))
    assert cache.offset == 400 > cache.size()
    oldest = cache.offset - cache.size()
    possible = [p for p in range(402) if cache.can_rewind(p)]
    assert possible == list(range(oldest + window - 1, 401))
    assert not cache.rewind(possible[0] - 1) and cache.offset == 400
    assert cache.rewind(possible[0]) and cache.size() == window - 1
    young = SlidingKVCache(window)
    young.update_and_fetch(*mx.zeros((2, 1, 1, 20, 4)))
    assert [p for p in range(-1, 22) if young.can_rewind(p)] == list(range(21))


def test_going_back_forgets_what_stood_behind(tiny):
    """Pictures, snapshots and tokens."""
    model, prompt = tiny(), some_tokens(60)
    cache = PromptCache(model, snapshot_every=10)
    list(stream(model, prompt, options=GREEDY, cache=cache, prefill_chunk=10))
    cache.media = [CachedMedia(3, 5, "cat"), CachedMedia(20, 25, "dog"), CachedMedia(40, 44, "owl")]
    assert cache.rewind(40) == 40
    assert [m.key for m in cache.media] == ["cat", "dog"] and cache.tokens == prompt[:40]
    assert max(s.position for s in cache.snapshots) <= 40
    assert cache.rewind(20) == 20 and [m.key for m in cache.media] == ["cat"]
    assert cache.common_prefix([*prompt, 1], [CachedMedia(3, 5, "cat")]) == 20


def test_a_second_turn_computes_only_what_is_new(tiny):
    model, cache = tiny(), None
    cache = PromptCache(model)
    first = some_tokens(100)
    ids, _, finish = numbers(stream(model, first, options=GREEDY, cache=cache))
    assert finish.reused_tokens == 0
    second = [*first, *ids, *some_tokens(10, seed=9)[1:]]
    *_, finish = stream(model, second, options=GREEDY, cache=cache)
    assert finish.reused_tokens == len(first) + len(ids) - 1
    *_, finish = stream(model, second, options=GREEDY, cache=cache)  # regenerate
    assert finish.reused_tokens == len(second) - 1


def test_forks_do_not_disturb_each_other(tiny):
    model, prompt = tiny(), some_tokens(90)
    cache = PromptCache(model)
    list(stream(model, prompt, options=GREEDY, cache=cache))
    fork = cache.fork()
    a, b = ([*prompt, *some_tokens(30, seed=s)[1:]] for s in (1, 2))
    for target, tokens in ((cache, a), (fork, b), (cache, a), (fork, b)):
        got = numbers(stream(model, tokens, options=GREEDY, cache=target))[0]
        assert got == numbers(stream(model, tokens, options=GREEDY))[0]


def test_a_second_conversation_shares_the_beginning(tiny):
    model, system = tiny(), some_tokens(120, seed=40)
    first = PromptCache(model, snapshot_every=32)
    list(stream(model, [*system, *some_tokens(50, seed=41)], options=GREEDY, cache=first))
    before, prompt = list(first.tokens), [*system, *some_tokens(9, seed=42)]
    second = PromptCache.sharing(model, prompt)
    ids, _, finish = numbers(stream(model, prompt, options=GREEDY, cache=second))
    assert finish.reused_tokens > 80
    assert ids == numbers(stream(model, prompt, options=GREEDY))[0]
    assert first.tokens == before and {e.offset for e in first.entries} == {len(before)}
    full = model.config.text.layer_types.index("full_attention")
    assert second.entries[full].keys.shape[2] < len(prompt) + 300
    other = [7, *prompt[1:]]
    assert PromptCache.sharing(model, other).tokens == []
    assert PromptCache.sharing(tiny("moe"), prompt).tokens == []
    assert PromptCache.sharing(model, prompt, kv_bits=8).tokens == []


def test_one_generation_at_a_time(tiny):
    model, cache = tiny(), PromptCache(tiny())
    events = stream(model, some_tokens(40), options=GREEDY, cache=cache)
    next(events)
    with pytest.raises(GenerationError, match="in use"):
        next(stream(model, some_tokens(40), options=GREEDY, cache=cache))
    events.close()
    assert next(stream(model, some_tokens(40), options=GREEDY, cache=cache))


def test_media_are_compared_by_content(tiny):
    cache = PromptCache(tiny())
    cache.tokens = [2, 108, 110, 110, 110, 112, 500, 501]
    cache.media = [CachedMedia(2, 5, "cat")]

    def common(key, stop=5, tokens=None):
        return cache.common_prefix(tokens or [*cache.tokens, 1], [CachedMedia(2, stop, key)])

    assert common("cat") == 8
    assert common("dog") == 2
    assert cache.common_prefix([*cache.tokens, 1]) == 2, "placeholders without their picture"
    assert common("cat", tokens=[2, 108, 110, 110, 110, 112, 9, 9]) == 6
    bidirectional = PromptCache(tiny("vision"))
    bidirectional.tokens, bidirectional.media = cache.tokens, cache.media
    assert bidirectional.common_prefix([2, 108, 110, 110, 110], cache.media) == 2


def test_interventions_do_not_share_a_cache(tiny):
    model, prompt = tiny(), some_tokens(40)
    cache = PromptCache(model)
    list(stream(model, prompt, options=GREEDY, cache=cache))
    double = SimpleNamespace(
        key="double", observer=lambda _: lambda n, layer, v, g: v * 2 if n == "embeddings" else None
    )
    with model.intervene(double):
        ids, _, finish = numbers(stream(model, prompt, options=GREEDY, cache=cache))
        assert finish.reused_tokens == 0
    plain, _, finish = numbers(stream(model, prompt, options=GREEDY, cache=cache))
    assert finish.reused_tokens == 0 and plain != ids


def test_snapshots_stay_within_their_budget(tiny):
    model = tiny()
    cache = PromptCache(model, snapshot_every=16, snapshot_bytes=40_000)
    list(stream(model, some_tokens(600), options=GREEDY, cache=cache, prefill_chunk=16))
    sizes = sum(snapshot.nbytes for snapshot in cache.snapshots)
    assert 20_000 < sizes <= 40_000
    positions = [snapshot.position for snapshot in cache.snapshots]
    gaps = np.diff([0, *positions])
    assert gaps[0] > gaps[-1], "denser where the conversation is"
    assert cache.nbytes == sizes + sum(entry.nbytes for entry in cache.entries)


def test_a_turn_keeps_its_places_in_the_room_of_one(tiny):
    """Its beginning, where the answer begins, and all between, through a long answer and more."""
    model = tiny()
    prompt = some_tokens(300)
    one = planner.snapshot_bytes(model.config.text, 300, model.dtype.size)
    cache = PromptCache(model, snapshot_bytes=one)
    list(stream(model, prompt[:290], options=GREEDY, cache=cache))
    assert cache.reuse(prompt) == 290
    model.read(mx.array(prompt[290:297])[None], cache.entries)
    cache.commit(prompt[290:297])
    cache.keep_turn(290, 297)
    more = some_tokens(400, seed=1)
    for start in range(0, 400, 40):
        model.read(mx.array(more[start : start + 40])[None], cache.entries)
        cache.commit(more[start : start + 40])
    cache.snapshot()
    assert [(s.first, s.position) for s in cache.snapshots] == [(290, 297)]
    assert one < sum(s.nbytes for s in cache.snapshots) <= 1.5 * one
    for position in (297, 293, 290):
        fork = cache.fork()
        assert fork.rewind(position) == position
        logits = model(mx.array([[500]]), fork.entries)[0, -1]
        fresh = model(mx.array([[*prompt[:position], 500]]))[0, -1]
        np.testing.assert_allclose(np.array(logits), np.array(fresh), atol=5e-5)
    assert cache.rewind(289) == 0


@pytest.mark.parametrize("more", [0, 1])
def test_a_turn_beyond_half_a_window_has_a_place_for_its_beginning(more, teaching):
    model, prompt = teaching, some_tokens(300)
    cache = PromptCache(model)
    model.read(mx.array(prompt)[None], cache.entries)
    cache.commit(prompt)
    begin = len(prompt) - model.config.text.sliding_window // 2 - more
    cache.keep_turn(begin, len(prompt))
    spans = [(s.first, s.position) for s in cache.snapshots]
    assert spans == ([(begin, begin), (292, 300)] if more else [(begin, 300)])


def test_another_answer_reads_nothing_again(tiny):
    """Before an answer, a place to come back to is kept: the answer is longer than the window and
    what sliding layers hold beside it."""
    model = tiny()
    turn, user = model.tokenizer.id("<|turn>"), model.tokenizer.encode("user\n")
    opening = [turn, *model.tokenizer.encode("model\n")]
    prompt = [*some_tokens(100), turn, *user, *some_tokens(80, seed=2)[1:], *opening]
    cache = PromptCache(model)
    long = {"max_tokens": 350, "ignore_eos": True}
    *_, finish = stream(model, prompt, options=long, cache=cache)
    assert finish.generated_tokens == 350
    *_, finish = stream(model, prompt, options=GREEDY, cache=cache)
    assert finish.reused_tokens == len(prompt) - 1
    cache = PromptCache(model)
    list(stream(model, prompt, options=long, cache=cache))
    edited = [*prompt[:100], turn, *user, *some_tokens(20, seed=3)[1:], *opening]
    *_, finish = stream(model, edited, options=GREEDY, cache=cache)
    assert finish.reused_tokens == 100, "where the turn began"
    cache = PromptCache(model)
    list(stream(model, prompt, options=long, cache=cache))
    after_a_thought = [*prompt, *some_tokens(20, seed=4)[1:]]
    *_, finish = stream(model, after_a_thought, options=GREEDY, cache=cache)
    assert finish.reused_tokens == len(prompt), "where the answer began"


def test_why_little_was_reused(tiny):
    model, prompt = tiny(), some_tokens(900)
    cache = PromptCache(model, snapshot_bytes=0)

    def read():
        cache.clear()
        model.read(mx.array(prompt[:400])[None], cache.entries)
        model.read(mx.array(prompt[400:])[None], cache.entries)
        cache.commit(prompt)

    read()
    assert cache.reuse([*prompt, 5]) == 900 and cache.reuse_note == ""
    assert cache.reuse([*prompt[:300], 5]) == 0
    assert "step back to token 0 only, of 300 in common" in cache.reuse_note
    assert cache.reuse([*prompt[:300], 5]) == 0 and cache.reuse_note == ""
    read()
    *_, finish = stream(model, [*prompt[:20], *[5] * 500], options=GREEDY, cache=cache)
    assert finish.reused_tokens == 0
    assert finish.reuse_note == "the prompt differs from token 20 on"
    read()
    assert cache.reuse([*prompt[:400], *some_tokens(500, seed=3)]) == 400
    assert cache.reuse_note == "the prompt differs from token 400 on", "not half of 899"
    cache.clear()
    model.read(mx.array(prompt[:10])[None], cache.entries)
    cache.commit(prompt[:10])
    assert cache.reuse(prompt) == 10 and cache.reuse_note == "", "all that there was"


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("variant", ["shared", "k_eq_v"])
def test_quantized_full_layers(tiny, variant, bits):
    """Also with shared layers, and rewinding past the window."""
    model, prompt = tiny(variant), some_tokens(150)
    cache = PromptCache(model, kv_bits=bits, snapshot_every=32)
    plain = PromptCache(model)
    for tokens in (prompt, [*prompt[:100], *some_tokens(20, seed=3)]):
        *_, finish = stream(model, tokens, options=GREEDY, cache=cache, prefill_chunk=32)
        assert {entry.offset for entry in cache.entries} == {len(cache.tokens)}
    assert finish.reused_tokens > 60
    fresh = PromptCache(model, kv_bits=bits)
    for other in (plain, fresh):
        list(stream(model, tokens, options=GREEDY, cache=other))
    full = model.config.text.layer_types.index("full_attention")
    assert cache.entries[full].nbytes < plain.entries[full].nbytes / (32 / bits) * 1.8
    edited, again, exact = (
        mx.softmax(model(mx.array([[500]]), c.fork().entries)[0, -1]) for c in (cache, fresh, plain)
    )
    assert mx.abs(edited - again).sum().item() < 0.01
    assert 0 < mx.abs(edited - exact).sum().item() < (0.05 if bits == 8 else 1)


# On disk


@pytest.mark.parametrize("kv_bits", [None, 8])
def test_saved_and_loaded_goes_on_exactly(tiny, tmp_path, kv_bits):
    model, prompt = tiny(), some_tokens(120)
    cache = PromptCache(model, kv_bits=kv_bits, snapshot_every=32)
    list(stream(model, prompt, options=GREEDY, cache=cache, prefill_chunk=32))
    cache.media = [CachedMedia(3, 5, "cat")]
    cache.save(tmp_path / "chat.safetensors")
    loaded = PromptCache.load(tmp_path / "chat.safetensors", model)
    assert (loaded.tokens, loaded.media) == (cache.tokens, cache.media)
    assert [s.position for s in loaded.snapshots] == [s.position for s in cache.snapshots]
    cache.media, loaded.media = [], []
    for tokens in ([*prompt, 700, 701], [*prompt[:70], 800, 801]):
        got = numbers(stream(model, tokens, options=GREEDY, cache=loaded))
        want = numbers(stream(model, tokens, options=GREEDY, cache=cache))
        assert got[0] == want[0] and got[2].reused_tokens == want[2].reused_tokens > 30
        np.testing.assert_allclose(got[1], want[1], atol=1e-6)


def test_bfloat16_and_empty_caches_survive_the_disk(new_tiny, tmp_path):
    model = new_tiny()
    empty = PromptCache(model)
    empty.save(tmp_path / "empty")
    assert PromptCache.load(tmp_path / "empty", model).tokens == []
    model.set_dtype(mx.bfloat16)
    cache = PromptCache(model)
    list(stream(model, some_tokens(30), options=GREEDY, cache=cache))
    cache.save(tmp_path / "half")
    loaded = PromptCache.load(tmp_path / "half", model)
    for a, b in zip(loaded.entries, cache.entries):
        for x, y in zip(a.state, b.state):
            assert x.dtype == mx.bfloat16 and mx.array_equal(x, y)


def test_unusable_files_are_named(tiny, tmp_path):
    model, path = tiny(), tmp_path / "cache"
    cache = PromptCache(model)
    list(stream(model, some_tokens(30), options=GREEDY, cache=cache))
    with pytest.raises(CheckpointError, match="no cache file"):
        PromptCache.load(path, model)
    cache.save(path)
    with pytest.raises(CheckpointError, match="another model"):
        PromptCache.load(path, tiny("moe"))
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 100, 4, 0):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="cut short"):
            PromptCache.load(path, model)
    path.write_bytes(whole + b"\0")
    longer = rf"after its end: {len(whole) + 1:,} bytes, {len(whole):,} expected"
    with pytest.raises(CheckpointError, match=longer):
        PromptCache.load(path, model)
    header = json.dumps({"x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="not a prompt cache"):
        PromptCache.load(path, model)


def saved_with(whole: bytes, change) -> bytes:
    """A saved cache after ``change(header, about)``, with a checksum that fits."""
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    about = json.loads(header["__metadata__"]["gemma4_mlx"])
    change(header, about)
    header["__metadata__"] |= {"gemma4_mlx": json.dumps(about), "sha256": "0" * 64}
    return summed(header, whole[8 + length :])


def summed(header, data) -> bytes:
    text = json.dumps(header).encode()
    whole = len(text).to_bytes(8, "little") + text + data
    digest = hashlib.sha256(whole).hexdigest().encode()
    return whole.replace(b"0" * 64, digest, 1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny):
    """A conversation's cache as a file: (model, its bytes), plain and quantized."""

    def make(kv_bits):
        model, path = tiny("shared"), tmp_path_factory.mktemp("saved") / "cache"
        cache = PromptCache(model, kv_bits=kv_bits)
        list(stream(model, some_tokens(90), options=GREEDY, cache=cache))
        cache.save(path)
        return model, path.read_bytes()

    return {bits: make(bits) for bits in (None, 8)}


@pytest.mark.parametrize("kv_bits", [None, 8])
def test_a_file_altered_anywhere_is_refused(saved, tmp_path, kv_bits):
    model, whole = saved[kv_bits]
    path, rng = tmp_path / "cache", np.random.default_rng(0)
    path.write_bytes(whole)
    assert len(PromptCache.load(path, model).tokens) > 90
    for place in rng.integers(0, len(whole), 60):
        altered = bytearray(whole)
        altered[place] ^= 1 << rng.integers(8)
        path.write_bytes(altered)
        with pytest.raises(CheckpointError):
            PromptCache.load(path, model)


@pytest.mark.parametrize("kv_bits", [None, 8])
def test_a_file_that_was_made_up_is_refused(saved, tmp_path, kv_bits):
    """Right checksum, wrong contents: shapes, types, numbers, positions."""
    model, whole = saved[kv_bits]
    path = tmp_path / "cache"
    length = int.from_bytes(whole[:8], "little")

    def refused(change, words="is damaged"):
        path.write_bytes(saved_with(whole, change))
        with pytest.raises(CheckpointError, match=words):
            PromptCache.load(path, model)

    arrays = json.loads(whole[8 : 8 + length])
    for name in [n for n in arrays if n.split(".")[0] in ("entry", "snapshot")]:
        a, b, c, d = arrays[name]["shape"]
        for shape in ([a, b, d, c], [b, a, c, d], [a, b, c * d, 1], [a * b, c, d]):
            if shape != [a, b, c, d]:
                refused(lambda h, _, n=name, s=shape: h[n].update(shape=s))
        other = {"F32": "I32", "BF16": "F16", "U32": "F32"}[arrays[name]["dtype"]]
        refused(lambda h, _, n=name, t=other: h[n].update(dtype=t))
        refused(lambda h, _, n=name: h.update({f"{n}x": h.pop(n)}))
        if arrays[name]["dtype"] == "U32":
            continue
        for value in (np.nan, np.inf):  # in the last place of this array
            data = bytearray(whole[8 + length :])
            stop = arrays[name]["data_offsets"][1]
            size = {"F32": 4, "BF16": 2}[arrays[name]["dtype"]]
            data[stop - size : stop] = np.float32(value).tobytes()[-size:]
            header = json.loads(whole[8 : 8 + length])
            header["__metadata__"]["sha256"] = "0" * 64
            path.write_bytes(summed(header, bytes(data)))
            with pytest.raises(CheckpointError, match="NaN or infinite"):
                PromptCache.load(path, model)
    appended = json.loads(whole[8 : 8 + length])
    appended["__metadata__"]["sha256"] = "0" * 64
    path.write_bytes(summed(appended, whole[8 + length :] + bytes(8)))
    with pytest.raises(CheckpointError, match=f"{path.stat().st_size:,} bytes"):
        PromptCache.load(path, model)
    refused(lambda h, a: a.update(kv_bits=4 if kv_bits else 8))
    refused(lambda h, a: a.update(kv_bits="8"))
    refused(lambda h, a: a.update(snapshots=[10**6] * len(a["snapshots"] or [0])))
    refused(lambda h, a: a.update(snapshots=[-1] * len(a["snapshots"] or [0])))
    refused(lambda h, a: a.update(media=[[0, 10**6, "x"]]))
    refused(lambda h, a: a.update(media=[[5, 2, "x"]]))
    refused(lambda h, a: a.update(media=[["0", 2, "x"]]))
    refused(lambda h, a: h["tokens"].update(dtype="F32"))
    refused(lambda h, a: h["tokens"].update(shape=[1, *h["tokens"]["shape"]]))
    data = bytearray(whole[8 + length :])
    start = arrays["tokens"]["data_offsets"][0]
    for token in (-1, 10**6):
        data[start : start + 4] = np.int32(token).tobytes()
        header = json.loads(whole[8 : 8 + length])
        header["__metadata__"]["sha256"] = "0" * 64
        path.write_bytes(summed(header, bytes(data)))
        with pytest.raises(CheckpointError, match="tokens that the model does not have"):
            PromptCache.load(path, model)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda header, about: header["tokens"].pop("data_offsets"), "not a prompt cache"),
        (lambda header, about: header["tokens"].update(data_offsets=""), "not a prompt cache"),
        (lambda header, about: header.update(tokens=0.5), "not a prompt cache"),
        (lambda header, about: header["tokens"]["data_offsets"].pop(), "not a prompt cache"),
        (lambda header, about: header["tokens"].update(data_offsets=[0, 1e999]), "not a prompt"),
        (lambda header, about: about.pop("interventions"), "interventions"),
        (lambda header, about: about.pop("kv_bits"), "damaged"),
        (lambda header, about: about.pop("kv_group_size"), "damaged"),
        (lambda header, about: about.update(entries=2**31), "damaged"),
    ],
)
def test_damage_that_fuzzing_found(tiny, tmp_path, change, words):
    model, path = tiny("small"), tmp_path / "cache"
    PromptCache(model).save(path)
    path.write_bytes(saved_with(path.read_bytes(), change))
    with pytest.raises(CheckpointError, match=words):
        PromptCache.load(path, model)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_folder_that_is_a_file(tiny, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="could not be saved"):
        PromptCache(tiny()).save(tmp_path / "notes.txt" / "cache.safetensors")


@pytest.mark.parametrize(
    "wrong",
    [
        {"kv_bits": 16},
        {"kv_bits": 5},
        {"kv_bits": 0},
        {"snapshot_every": 0},
        {"snapshot_bytes": -1},
        {"snapshot_bytes": "1 GB"},
    ],
    ids=str,
)
def test_settings_that_cannot_be(tiny, wrong):
    (name,) = wrong
    with pytest.raises(GenerationError, match=f"{name} must be"):
        PromptCache(tiny(), **wrong)


def test_a_full_disk_leaves_the_old_file_whole(tmp_path):
    """A process that may write 200 kB to a file stands for a disk that is full."""
    code = """
        import resource, signal, sys
        sys.path.insert(0, {here!r})
        from conftest import make_tiny
        from gemma4_mlx.errors import CheckpointError, GenerationError
        from gemma4_mlx.generation import PromptCache, stream
        model, path = make_tiny(), {path!r}
        options = dict(max_tokens=2, ignore_eos=True)
        cache = PromptCache(model)
        list(stream(model, list(range(400, 440)), options=options, cache=cache))
        cache.save(path)
        list(stream(model, list(range(400, 900)), options=options, cache=cache))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        try:
            cache.save(path)
        except CheckpointError as error:
            print("refused:", error)
        print(len(PromptCache.load(path, model)))
    """
    here = str(__import__("pathlib").Path(__file__).parent)
    code = textwrap.dedent(code).format(here=here, path=str(tmp_path / "cache"))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "could not be saved" in run.stdout and run.stdout.split()[-1] == "41"
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]


def test_a_cache_crosses_threads(tiny):
    """Used on the engine, then here, then on another thread."""
    model, prompt = tiny(), some_tokens(60)
    cache = PromptCache(model)
    engine().run(lambda: list(stream(model, prompt, options=GREEDY, cache=cache)))
    longer = [*prompt, 600, 601, 602]
    want = tokens_of(stream(model, longer, options=GREEDY))
    assert tokens_of(stream(model, longer, options=GREEDY, cache=cache)) == want
    got = []
    thread = threading.Thread(
        target=lambda: got.extend(stream(model, longer, options=GREEDY, cache=cache))
    )
    thread.start()
    thread.join()
    assert tokens_of(got) == want and isinstance(got[-1], Finish)
