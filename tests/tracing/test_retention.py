"""What a plan keeps by default: by the room there is, full layers and telling heads first."""

import errno
import gc
import os
import tempfile
import time

import numpy as np
import psutil
import pytest

import gemma4_mlx as g4
from gemma4_mlx.config import Gemma4Config
from gemma4_mlx.errors import TraceError
from gemma4_mlx.tracing import AttentionPlan, Recorder, TracePlan
from gemma4_mlx.tracing.recording import attention_plan, buffers, room

GIB = 2**30
IDS = np.random.default_rng(2).integers(3, 490, 200).tolist()


@pytest.fixture(scope="module")
def model(checkpoint):
    return g4.load(checkpoint("everything").folder)


@pytest.fixture
def there(monkeypatch):
    """``there(memory, disk)``: as much room on this machine."""

    def set_room(memory, disk):
        monkeypatch.setattr(attention_plan, "room", lambda folder=None: room.Room(memory, disk))

    return set_room


class Sixteen:
    """A released model's configuration, computed in 16 bits."""

    class dtype:
        size = 2

    def __init__(self, config):
        self.config = config


@pytest.mark.parametrize("name", ["E2B", "26B-A4B", "31B"])
@pytest.mark.parametrize("n", [8192, 32768, 131072])
@pytest.mark.parametrize("memory, disk", [(GIB // 2, 4 * GIB), (2 * GIB, 16 * GIB)])
def test_released_models_keep_their_full_layers(name, n, memory, disk, there, reference_dir):
    """In memory, else on disk, else as many of their heads as the budget holds."""
    config = Gemma4Config.from_file(reference_dir / f"config_gemma-4-{name}-it.json")
    text, model = config.text, Sixteen(config)
    there(memory, disk)
    kept, cost = AttentionPlan().retention(model, n), AttentionPlan().cost(model, n)
    full = tuple(i for i in range(text.num_hidden_layers) if text.is_full(i))
    if name == "E2B" and n == 8192 and memory == 2 * GIB:  # then all of them fit
        full = tuple(range(text.num_hidden_layers))
    keys = {text.kv_donor(i) for i in full}
    numbers = sum(text.num_attention_heads * text.head_dim_of(i) for i in full)
    numbers += sum(text.kv_heads_of(i) * text.head_dim_of(i) for i in keys)
    size = 2 * n * numbers
    assert kept.layers == full
    assert kept.storage == ("memory" if size <= memory else "disk")
    assert kept.bytes == min(size, disk) and (kept.limit is None) == (size <= disk)
    where = cost.parts.get("queries and keys", 0), cost.disk
    assert where == ((size, 0) if size <= memory else (0, kept.bytes))
    # What is always there stays small beside the weights.
    rest = cost.memory - where[0]
    assert rest < {"E2B": 1, "26B-A4B": 1.5, "31B": 4}[name] * GIB


def test_small_runs_keep_everything_in_memory(model, there):
    there(GIB, GIB)
    plan = AttentionPlan()
    kept = plan.retention(model, 100)
    assert kept.layers == tuple(range(8)) and kept.storage == "memory" and kept.limit is None
    assert AttentionPlan(layers=(0, 1)).retained_layers(model, 100) == (0, 1)
    there(1000, GIB)
    full = tuple(i for i in range(8) if model.config.text.is_full(i))
    assert plan.retention(model, 100).layers == full
    assert plan.retention(model, 100).storage == "disk"
    assert AttentionPlan(retain="all").retention(model, 100).storage == "disk"
    assert AttentionPlan(retain="all", storage="memory").retention(model, 100).storage == "memory"
    with pytest.raises(TraceError, match="layers 2 to 4, which are not traced"):
        AttentionPlan(layers=(1,), retain=(2, 3, 4)).retention(model, 10)


@pytest.mark.parametrize("share", [0.3, 0.6])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_the_most_telling_heads_stay(model, there, share, known, storage, tmp_path):
    """Within the budget, exact, and those that the summaries of the first chunks name."""
    there(GIB, GIB)
    whole = AttentionPlan(retain="full")
    budget = int(whole.cost(model, len(IDS)).parts["queries and keys"] * share)
    how = {} if storage == "memory" else {"storage": storage, "folder": str(tmp_path)}
    plan = TracePlan(attention=AttentionPlan(budget=budget, **how))
    if known:
        attention = g4.trace(model, IDS, plan=plan, chunk=50).attention
    else:
        recorder, cache = Recorder(model, plan), model.make_cache()
        with model.observe(recorder):
            for start in range(0, 200, 25):
                model(g4_array(IDS[start : start + 25]), cache=cache)
        attention = recorder.trace().attention
    exact = g4.trace(model, IDS, attention=whole, routing=None).attention
    sizes = [
        a.nbytes for part in attention.parts for a in (part.queries, part.keys) if a is not None
    ]
    assert 0 < sum(sizes) <= budget
    assert all(isinstance(p.queries, np.memmap) == bool(how) for p in attention.parts if p.kept)
    kept = {(part.layer, head) for part in attention.parts for head in part.kept}
    full = {i for i in range(8) if model.config.text.is_full(i)}
    assert 0 < len(kept) < 4 * len(full) and {layer for layer, _ in kept} <= full
    for layer, head in kept:
        assert attention.exactness(layer, head) == "kept"
        assert np.abs(attention.row(layer, head, 150) - exact.row(layer, head, 150)).max() < 1e-5
    lost = next((i, h) for i in full for h in range(4) if (i, h) not in kept)
    assert attention.exactness(*lost) == ("on demand" if known else "pooled")
    assert "kept" in attention.why_not(*lost)
    found = attention.find((150, 160), (20, 30), compute=False)
    assert {(each.layer, each.head) for each in found} == kept
    arrays, meta = attention.to_arrays()
    back = type(attention).from_arrays(arrays, meta)
    assert {(part.layer, head) for part in back.parts for head in part.kept} == kept


def test_no_room_at_all(model, there):
    there(0, 0)
    attention = g4.trace(model, IDS, routing=None, chunk=64).attention
    assert attention.retained == () and all(part.keys is None for part in attention.parts)
    assert attention.overview(2, 0).shape == (200, 200)
    with pytest.raises(TraceError, match="budget of -1 bytes"):
        AttentionPlan(budget=-1)


def g4_array(ids):
    import mlx.core as mx

    return mx.array(ids)[None]


def test_memory_for_a_trace_is_a_budget_for_what_it_keeps(model, there):
    """``trace(memory=...)`` keeps less: on disk where there is one, else the most telling heads."""
    there(GIB, GIB)
    plan = TracePlan(attention=AttentionPlan())
    whole = plan.cost(model, len(IDS))
    rest = whole.memory - whole.parts["queries and keys"]
    memory = rest + whole.parts["queries and keys"] // 4
    trace = g4.trace(model, IDS, plan=plan, memory=memory, chunk=50)
    assert "storage='disk'" in trace.plan and trace.attention.retained == tuple(range(8))
    assert isinstance(trace.attention.layer(0).queries, np.memmap)
    there(GIB, 0)
    attention = g4.trace(model, IDS, plan=plan, memory=memory, chunk=50).attention
    kept = {(part.layer, head) for part in attention.parts for head in part.kept}
    assert kept and {layer for layer, _ in kept} <= {
        i for i in range(8) if model.config.text.is_full(i)
    }
    sizes = [a.nbytes for p in attention.parts for a in (p.queries, p.keys) if a is not None]
    assert sum(sizes) <= memory - rest
    trace = g4.trace(model, IDS, plan=plan, memory=rest)
    assert trace.attention.retained == () and "budget=0" in trace.plan
    with pytest.raises(TraceError, match="there are"):
        g4.trace(model, IDS, plan=plan, memory=rest - 1)


def _fill_up(monkeypatch, room_for: int):
    """The disk of mapped files takes ``room_for`` bytes."""
    left = [room_for]

    class Full:
        def __init__(self, file):
            self._file = file

        def __getattr__(self, name):
            return getattr(self._file, name)

        def write(self, data):
            if left[0] <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            data = data[: left[0]]
            left[0] -= len(data)
            return self._file.write(data)

    make = tempfile.TemporaryFile
    monkeypatch.setattr(buffers.tempfile, "TemporaryFile", lambda **how: Full(make(**how)))


@pytest.mark.parametrize("known", [True, False])
def test_a_disk_that_becomes_full(model, there, tmp_path, monkeypatch, known):
    """The trace goes on pooled, nothing is left behind, and computing a layer says what helps."""
    there(0, GIB)
    plan = AttentionPlan(storage="disk", folder=str(tmp_path))
    size = plan.retention(model, len(IDS)).bytes
    _fill_up(monkeypatch, size // 3)
    with pytest.warns(UserWarning, match=r"are not kept: .*No space left.*folder=\.\.\."):
        if known:
            attention = g4.trace(model, IDS, attention=plan, routing=None, chunk=50).attention
        else:
            recorder, cache = Recorder(model, TracePlan(attention=plan)), model.make_cache()
            with model.observe(recorder):
                for start in range(0, 200, 25):
                    model(g4_array(IDS[start : start + 25]), cache=cache)
            attention = recorder.trace().attention
    assert attention.retained == () and list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    exact = g4.trace(model, IDS, attention=AttentionPlan(retain="none"), routing=None, chunk=50)
    if known:
        np.testing.assert_array_equal(attention.overview(2, 1), exact.attention.overview(2, 1))
        _fill_up(monkeypatch, 1000)
        with pytest.raises(TraceError, match=r"layer 2 cannot be kept: .*No space left"):
            attention.compute(2)


def test_mapped_files_leave_nothing_behind(model, there, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "cache_folder", lambda: tmp_path / "cache" / "traces")
    there(10, GIB)
    trace = g4.trace(model, IDS, routing=None)
    folder = tmp_path / "cache" / "traces"
    (full, *_) = trace.attention.retained
    assert isinstance(trace.attention.layer(full).queries, np.memmap)
    assert folder.is_dir() and not list(folder.iterdir())
    left, fresh, other = (folder / name for name in ("g4trace-a", "g4trace-b", "mine"))
    for path in (left, fresh, other):
        path.touch()
    os.utime(left, (time.time() - 7200,) * 2)
    os.utime(other, (time.time() - 7200,) * 2)
    g4.trace(model, IDS, routing=None)
    assert sorted(folder.iterdir()) == [fresh, other]


def test_a_trace_on_disk_holds_two_descriptors(model, tmp_path):
    """The file and its mapping, however many layers there are: a process has few."""
    this = psutil.Process()
    plan = AttentionPlan(retain="all", storage="disk", folder=str(tmp_path))
    recorder, cache = Recorder(model, TracePlan(attention=plan)), model.make_cache()
    gc.collect()  # what other tests left behind is not counted
    before = this.num_fds()
    with model.observe(recorder):
        for start in range(0, 200, 25):  # beyond the room that there is at first
            model(g4_array(IDS[start : start + 25]), cache=cache)
            assert this.num_fds() <= before + 2
    attention = recorder.trace().attention
    assert len(attention.retained) == 8 and this.num_fds() == before + 2
    exact = g4.trace(model, IDS, attention=AttentionPlan(retain="all", storage="memory")).attention
    for layer in range(8):
        got, wanted = attention.layer(layer), exact.layer(layer)
        np.testing.assert_allclose(got.queries, wanted.queries, atol=1e-5)
    del attention, recorder, got
    gc.collect()
    assert this.num_fds() <= before


def test_the_room_of_this_machine(tmp_path):
    found = room.room(str(tmp_path))
    assert 0 < found.memory <= room.MEMORY_LIMIT and 0 < found.disk <= room.DISK_LIMIT
    assert room.free_disk() > 0
    with pytest.raises(TraceError, match="cannot hold"):
        room.room(str(tmp_path / "nowhere"))
