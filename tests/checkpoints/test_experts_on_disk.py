"""Experts on disk: the same numbers as with all of them in memory, whatever is held."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np
import pytest
import tiny
from mlx.utils import tree_flatten

import gemma4_mlx as g4
from gemma4_mlx.checkpoints.disk import experts, reading
from gemma4_mlx.checkpoints.disk.slots import Slots
from gemma4_mlx.errors import CheckpointError
from gemma4_mlx.verify import verify

E, K = tiny.TEXT_CONFIG["num_experts"], tiny.TEXT_CONFIG["top_k_experts"]
LAYERS = tiny.TEXT_CONFIG["num_hidden_layers"]


def one_by_one(tensors):
    """Every expert's matrices as tensors of their own."""
    for name, value in tensors.items():
        if ".switch_glu." not in name:
            yield name, value
            continue
        base, last = name.split(".switch_glu.")
        for expert in range(E):
            yield f"{base}.{expert}.{last}", value[expert]


LAYOUTS = {
    "own": lambda tensors: tensors,
    "hub": lambda tensors: tiny.torch_layout(tensors, tiny.google),
    "one by one": lambda tensors: dict(one_by_one(tensors)),
}


def checkpoint(folder, layout="own", dtype=mx.bfloat16, shards=2):
    return tiny.save(folder, tiny.CONFIG, LAYOUTS[layout](tiny.weights(tiny.CONFIG, dtype)), shards)


def with_slots(folder, slots, **options):
    """The checkpoint with so many of its experts in memory."""
    resident = g4.load(folder, **options)
    experts = [a for name, a in tree_flatten(resident.parameters()) if ".switch_glu." in name]
    memory = sum(a.nbytes for a in experts) // E * slots
    model = g4.load(folder, experts="disk", expert_memory=memory, **options)
    assert model.on_disk.slots == slots and model.on_disk.memory == memory
    return resident, model


def assert_equal_throughout(resident, model, rng):
    """Prefill in one piece and in chunks, then steps of one and of several tokens and rows."""
    text = resident.config.text
    ids = rng.integers(3, 300, (1, 70))
    assert mx.array_equal(resident(mx.array(ids)), model(mx.array(ids)))
    caches = resident.make_cache(), model.make_cache()
    steps = [40, 1, 1, 3, 1, 5, 1, 30, 1, 1]
    for n in steps:
        tokens = mx.array(rng.integers(3, 300, (1, n)))
        if n > 20:
            resident.read(tokens, caches[0])
            model.read(tokens, caches[1])
        else:
            assert mx.array_equal(resident(tokens, caches[0]), model(tokens, caches[1]))
    for a, b in zip(*caches):
        assert all(mx.array_equal(x, y) for x, y in zip(a.state, b.state))
    rows = mx.array(rng.integers(3, 300, (3, 2)))
    assert mx.array_equal(resident(rows), model(rows))
    assert text.top_k_experts == K


@pytest.mark.parametrize("slots", [K, 3, 5, E])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_are_the_same_bits(layout, slots, tmp_path):
    resident, model = with_slots(checkpoint(tmp_path, layout), slots)
    assert_equal_throughout(resident, model, np.random.default_rng(slots))
    reads = model.on_disk.reads
    if slots == E:  # then each was read once
        assert reads.missed == reads.ahead == reads.held == 0
        assert reads.nbytes == E * LAYERS * 3 * 128 * 64 * 2


@pytest.mark.parametrize("stored", [mx.bfloat16, mx.float16, mx.float32])
@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16"])
def test_every_type_becomes_every_type(stored, dtype, tmp_path):
    resident, model = with_slots(checkpoint(tmp_path, "hub", stored), 3, dtype=dtype)
    tokens = mx.arange(3, 30)[None]
    model(tokens), resident(tokens)
    for layer in range(LAYERS):
        glu, whole = (m.layers[layer].experts.switch_glu for m in (model, resident))
        for expert, slot in enumerate(glu.shelf.slots.place):
            for part in ("gate_proj", "up_proj", "down_proj") if slot >= 0 else ():
                held = glu[part].weight[int(slot)]
                assert held.dtype == whole[part].weight.dtype
                assert mx.array_equal(held, whole[part].weight[expert]), (layer, expert, part)
    assert mx.array_equal(resident(tokens), model(tokens))


@pytest.mark.parametrize("how", [dict(bits=4), dict(bits=3, group_size=32), dict(mode="mxfp4")])
def test_packed_experts(how, tmp_path):
    packed = g4.load(checkpoint(tmp_path / "whole"), **how)
    g4.save(packed, tmp_path / "packed")
    resident, model = with_slots(tmp_path / "packed", 3)
    assert_equal_throughout(resident, model, np.random.default_rng(0))


def test_routing_and_answers_are_the_same(tmp_path):
    teaching = g4.load()
    resident, model = with_slots_of_teaching(teaching)
    text = "Count from 3 to 9."
    told = g4.Chat(resident).send(text, temperature=0), g4.Chat(model).send(text, temperature=0)
    assert told[0].text == told[1].text and len(told[0].tokens) > 5
    assert told[0].stats.reads is None
    reads = told[1].stats.reads
    assert reads.nbytes > 0 and "of the experts were held" in str(reads)
    assert reads == model.on_disk.reads
    traces = [
        g4.trace(m, text, attention=g4.AttentionPlan(retain="all")) for m in (resident, model)
    ]
    for name in ("experts", "weights"):
        assert np.array_equal(*(getattr(trace.routing, name) for trace in traces))
    for layer in range(len(teaching.layers)):
        rows = [trace.attention.row(layer, 0, -1) for trace in traces]
        assert np.array_equal(*rows)
    with resident.intervene(g4.Ablate(2, [1, 5])), model.intervene(g4.Ablate(2, [1, 5])):
        ids = mx.array([resident.tokenizer.encode(text)])
        assert mx.array_equal(resident(ids), model(ids))


def with_slots_of_teaching(teaching):
    return teaching, g4.load(teaching.folder, experts="disk", expert_memory="2 MiB")


def test_a_chunk_reads_each_expert_once(tmp_path):
    _, model = with_slots(checkpoint(tmp_path), 3)
    on_disk = model.on_disk
    each = on_disk.memory // on_disk.slots // LAYERS // 2  # stored in half the bytes
    before = 0
    for start in (0, 100, 200):
        model.read(mx.arange(start, start + 100)[None], cache := model.make_cache())
        mx.eval([entry.state for entry in cache])
        assert on_disk.reads.nbytes - before <= E * each * LAYERS
        assert on_disk.reads.missed + on_disk.reads.held >= E
        before = on_disk.reads.nbytes


def test_what_is_likely_is_read_ahead(tmp_path):
    """With the next layer's router a copy of this one's and both layers' experts silent, what is
    expected there is what is chosen."""
    tensors = tiny.weights(tiny.CONFIG)
    for name in list(tensors):
        if "layer_scalar" in name:
            continue
        if ".router." in name:
            tensors[name] = tensors[tiny.TEXT + "layers.0.router." + name.split(".router.")[1]]
        elif name.endswith(("layernorm.weight", "_norm.weight")) and "post_" in name:
            tensors[name] = tensors[name] * 0  # the stream stays what it is
    resident, model = with_slots(tiny.save(tmp_path, tiny.CONFIG, tensors), K)
    cache, other = model.make_cache(), resident.make_cache()
    reads = model.on_disk.reads
    for token in range(3, 30):
        assert mx.array_equal(
            model(mx.array([[token]]), cache), resident(mx.array([[token]]), other)
        )
    assert reads.ahead > 0.7 * (reads.ahead + reads.missed)


def test_slots_keep_what_is_used():
    slots = Slots(6, 3, kept=0.5)

    def use(*experts):
        slots.used(experts)
        for expert, slot in slots.make_room(experts, experts):
            slots.fill(expert, slot)

    for expert in (0, 0, 0, 1, 2):
        use(expert)
    assert set(slots.held) == {0, 1, 2}
    use(3)  # 0 counts 0.125 + ..., 1 counts 0.25: the one used long ago goes
    assert set(slots.held) == {1, 2, 3} or set(slots.held) == {0, 2, 3}
    use(0, 3)
    assert {0, 3} <= set(slots.held)
    assert all(slots.held[slots.place[e]] == e for e in range(6) if slots.place[e] >= 0)
    ((expert, slot),) = slots.make_room([5], [5])
    assert slots.place[5] < 0 and slots.make_room([4], [0, 3, 4]) == []
    slots.empty(slot)
    assert slots.make_room([4], [0, 3, 4]) == [(4, slot)]


def test_files_that_change_are_noticed(tmp_path):
    """A file that is gone or has a successor is still open; what is written into it is refused,
    and no expert counts as held that was not read."""
    folder = checkpoint(tmp_path, shards=1)
    resident, model = with_slots(folder, 2)
    tokens = mx.arange(3, 40)[None]
    file = folder / "model.safetensors"
    os.rename(file, folder / "moved")
    file.write_bytes(b"another")
    assert mx.array_equal(model(tokens), resident(tokens))
    content = (folder / "moved").read_bytes()
    with open(folder / "moved", "r+b") as moved:
        moved.truncate(1000)
    with pytest.raises(CheckpointError, match="was written to since the model was loaded"):
        model(mx.arange(200, 240)[None])
    (folder / "moved").write_bytes(content)
    os.utime(folder / "moved", ns=(model_time := model_mtime(model), model_time))
    assert mx.array_equal(model(tokens), resident(tokens))


def model_mtime(model):
    """When the file was last written to, as the open model knows."""
    files = model.layers[0].experts.switch_glu.shelf._files
    ((_, (_, mtime)),) = files._open.values()
    return mtime


def test_a_generation_that_fails_leaves_the_chat_usable(tmp_path, monkeypatch):
    _, model = with_slots_of_teaching(g4.load())
    chat = g4.Chat(model)
    first = chat.send("Count from 3 to 9.", temperature=0)
    calls = []

    def failing(descriptor, buffers, offset):
        calls.append(offset)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(reading.os, "preadv", failing)
    with pytest.raises(CheckpointError, match="cannot be read: Input/output error"):
        chat.send("What is 27 + 15?", temperature=0)
    assert calls
    monkeypatch.undo()
    assert g4.Chat(model).send("Count from 3 to 9.", temperature=0).text == first.text
    same = g4.Chat(g4.load())
    same.send("Count from 3 to 9.", temperature=0)
    question = "What is 12 + 30?"
    expected = same.send(question, temperature=0).text
    assert chat.send(question, temperature=0).text == expected


def test_a_short_read_is_named(tmp_path, monkeypatch):
    _, model = with_slots(checkpoint(tmp_path), 2)
    monkeypatch.setattr(reading.os, "preadv", lambda *_: 0)
    with pytest.raises(CheckpointError, match=r"model-0000\d-of-00002.safetensors is cut short"):
        model(mx.arange(3, 9)[None])


def test_reads_in_pieces_add_up(tmp_path, monkeypatch):
    resident, model = with_slots(checkpoint(tmp_path), 3)
    whole = os.preadv
    monkeypatch.setattr(
        reading.os, "preadv", lambda fd, into, at: whole(fd, [into[0][: 1 + at % 700]], at)
    )
    tokens = mx.arange(3, 40)[None]
    assert mx.array_equal(model(tokens), resident(tokens))


def test_a_disk_that_stalls_is_given_up_and_comes_back(tmp_path, monkeypatch):
    resident, model = with_slots(checkpoint(tmp_path), 3)
    awake, whole = threading.Event(), os.preadv

    def sleeping(*arguments):
        awake.wait(30)
        return whole(*arguments)

    monkeypatch.setattr(reading.os, "preadv", sleeping)
    monkeypatch.setattr(reading, "STALLED", 0.2)
    tokens, begin = mx.arange(3, 40)[None], time.monotonic()
    with pytest.raises(CheckpointError, match="reading experts of layer 0 has not gone on for"):
        model(tokens)
    assert time.monotonic() - begin < 20
    awake.set()
    time.sleep(0.2)
    monkeypatch.undo()
    assert mx.array_equal(model(tokens), resident(tokens))


def test_a_slow_disk_is_waited_for(tmp_path, monkeypatch):
    """All reads together take longer than one may, and each goes on."""
    resident, model = with_slots(checkpoint(tmp_path), 5)
    whole = os.preadv

    def slow(*arguments):
        time.sleep(0.03)
        return whole(*arguments)

    monkeypatch.setattr(reading.os, "preadv", slow)
    monkeypatch.setattr(reading, "STALLED", 0.75)
    one_by_one = ThreadPoolExecutor(1)
    monkeypatch.setattr(experts, "readers", lambda: one_by_one)
    tokens, begin = mx.arange(3, 40)[None], time.monotonic()
    assert mx.array_equal(model(tokens), resident(tokens))
    assert time.monotonic() - begin > 2 * reading.STALLED


def test_gradients_and_compiling_are_refused(tmp_path):
    _, model = with_slots(checkpoint(tmp_path), 3)
    tokens = mx.arange(3, 40)[None]
    with pytest.raises(CheckpointError, match="gradients need all experts in memory"):
        x = model.language_model.model.embed(tokens)
        mx.eval(mx.grad(lambda x: model(tokens, input_embeddings=x).sum())(x))
    with pytest.raises(CheckpointError, match="cannot be compiled"):
        mx.eval(mx.compile(lambda x: model(tokens, input_embeddings=x))(x))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(experts="cloud"), "experts is 'cloud'; expected 'memory' or 'disk'"),
        (dict(layers="Disk"), "layers is 'Disk'; expected"),
        (dict(layers="disk", experts="disk"), "give one of the two"),
        (dict(expert_memory="4GB"), "expert_memory is for experts='disk'"),
        (dict(experts="disk", expert_memory="much"), "expert_memory is 'much'; expected bytes"),
        (dict(experts="disk", expert_memory=-1), "expert_memory is -1"),
        (dict(experts="disk", expert_memory=1000), "a token needs 2, so give at least"),
    ],
)
def test_bad_arguments(options, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        g4.load(checkpoint(tmp_path), **options)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The user's cache folder."""
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")
    return tmp_path / "cache" / "experts"


@pytest.mark.parametrize("how", [dict(bits=4), dict(bits=8, dtype="bfloat16"), dict(mode="mxfp4")])
@pytest.mark.parametrize("layout", ["hub", "one by one"])
def test_experts_that_have_to_be_converted_are_written_once(how, layout, tmp_path, cache):
    folder = checkpoint(tmp_path / "model", layout)
    with pytest.raises(CheckpointError, match=r"prepare=True\) writes them once to .*cache"):
        g4.load(folder, experts="disk", expert_memory="3MB", **how)
    assert not cache.exists()
    resident = g4.load(folder, **how)
    model = g4.load(folder, experts="disk", expert_memory="400MB", prepare=True, **how)
    (written,) = cache.iterdir()
    files = {file: file.stat().st_mtime_ns for file in written.iterdir()}
    assert len(files) == LAYERS
    assert_equal_throughout(resident, model, np.random.default_rng(0))
    again = g4.load(folder, experts="disk", expert_memory="400MB", **how)
    assert files == {file: file.stat().st_mtime_ns for file in written.iterdir()}
    assert mx.array_equal(again(mx.arange(3, 30)[None]), resident(mx.arange(3, 30)[None]))


def test_other_weights_are_prepared_apart(tmp_path, cache):
    for folder, bits in (("a", 4), ("a", 8), ("b", 4)):
        tensors = tiny.weights(tiny.CONFIG)
        if folder == "b":
            tensors = {name: value * 2 for name, value in tensors.items()}
        path = tiny.save(tmp_path / folder, tiny.CONFIG, tensors)
        g4.load(path, bits=bits, experts="disk", expert_memory="10MB", prepare=True)
    assert len(list(cache.iterdir())) == 3


def test_a_full_disk_leaves_nothing(tmp_path, cache, monkeypatch):
    folder, whole = checkpoint(tmp_path / "model"), mx.save_safetensors
    load = dict(bits=4, experts="disk", expert_memory="10MB", prepare=True)

    def fails(file, arrays):
        if "layer-002" in file:
            raise RuntimeError("[write] Unable to write")
        whole(file, arrays)

    monkeypatch.setattr(mx, "save_safetensors", fails)
    with pytest.raises(CheckpointError, match="cannot be written"):
        g4.load(folder, **load)
    assert list(cache.iterdir()) == []
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(CheckpointError, match="free; the experts take"):
        g4.load(folder, **load)
    assert list(cache.iterdir()) == []


def test_a_model_without_experts(tmp_path):
    dense = tiny.CONFIG | {"text_config": tiny.TEXT_CONFIG | {"enable_moe_block": False}}
    folder = tiny.save(tmp_path, dense, tiny.weights(dense))
    with pytest.raises(CheckpointError, match="has no experts to leave on disk"):
        g4.load(folder, experts="disk")


def test_what_needs_all_experts_says_so(tmp_path):
    _, model = with_slots(checkpoint(tmp_path / "a"), 3)
    for needs in (lambda: g4.save(model, tmp_path / "b"), lambda: verify(model)):
        with pytest.raises(CheckpointError, match="weights in memory"):
            needs()
    assert not (tmp_path / "b").exists()
    assert "3 of 8 experts" in repr(model.on_disk)
