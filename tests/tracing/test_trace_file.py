"""The .g4trace file: everything comes back, damage is named, MLX is not needed."""

import json
import struct
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import gemma4_mlx as g4
from gemma4_mlx.errors import TraceError
from gemma4_mlx.tracing import ActivationPlan, AttentionPlan, LensPlan, RoutingPlan, TracePlan
from gemma4_mlx.tracing.data import fileformat


@pytest.fixture(scope="module")
def trace(checkpoint):
    model = g4.load(checkpoint("everything").folder)
    plan = TracePlan(
        RoutingPlan(probabilities=True),
        AttentionPlan(bins=12, retain="all"),
        LensPlan(top=2),
        ActivationPlan(("layer_output", "head_outputs"), layers=(1, 2)),
    )
    with model.intervene(g4.Boost(0, 3, 0.5)):
        return g4.trace(model, checkpoint("everything").ids[0].tolist(), plan=plan, chunk=64)


@pytest.fixture
def saved(trace, tmp_path):
    return trace.save(tmp_path / "run.g4trace")


def test_everything_comes_back(trace, saved):
    back = g4.open_trace(saved)
    assert repr(back) == repr(trace) and back.plan == trace.plan
    assert back.timings == trace.timings and back.model == trace.model
    assert back.interventions == trace.interventions
    assert back.tokens[:] == trace.tokens[:]
    assert np.array_equal(back.routing.experts, trace.routing.experts)
    assert np.array_equal(back.routing.probabilities, trace.routing.probabilities)
    assert back.lens.guesses(5) == trace.lens.guesses(5)
    for tap, layer in (("layer_output", 1), ("head_outputs", 1), ("head_outputs", 2)):
        kept = back.activations.at(tap, layer)
        assert np.array_equal(kept, trace.activations.at(tap, layer)) and kept.any(), tap
    ours, theirs = trace.attention, back.attention
    assert theirs.summaries() == ours.summaries() and theirs.retained == ours.retained
    for layer in ours.layers:
        for head in ours.heads(layer):
            assert np.array_equal(theirs.overview(layer, head), ours.overview(layer, head))
            assert np.array_equal(theirs.row(layer, head, 77), ours.row(layer, head, 77))
            assert theirs.links(layer, head) == ours.links(layer, head)
    again = back.save(saved.with_name("again.g4trace"))
    assert again.read_bytes() == saved.read_bytes()


def test_saving_over_an_open_file_is_safe(trace, saved):
    back = g4.open_trace(saved)
    back.save(saved)
    assert np.array_equal(g4.open_trace(saved).routing.weights, trace.routing.weights)
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_any_safetensors_reader_opens_it(saved, trace):
    from safetensors.numpy import load_file

    arrays = load_file(saved)
    assert np.array_equal(arrays["routing.experts"], trace.routing.experts)


def test_a_machine_without_mlx(saved, trace, tmp_path):
    """numpy alone: open, recompute a tile, write the page."""
    row = trace.attention.row(2, 1, 60)
    code = f"""
        import sys
        for name in ("mlx", "mlx.core", "tokenizers", "transformers", "PIL"):
            sys.modules[name] = None
        import gemma4_mlx as g4
        trace = g4.open_trace({str(saved)!r})
        print(trace.attention.row(2, 1, 60)[:61].sum(), trace.attention.tile(2, 1).shape)
        print(len(trace.attention.find((50, 60), (0, 9))), trace.routing.load().shape)
        trace.to_html({str(tmp_path / "page.html")!r})
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    total, shape = run.stdout.splitlines()[0].split(" ", 1)
    assert abs(float(total) - row.sum()) < 1e-6 and shape == "(100, 100)"
    assert (tmp_path / "page.html").stat().st_size > 10_000


def header_of(data):
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(path, change, body=None):
    header, rest = header_of(path.read_bytes())
    change(header)
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + (rest if body is None else body))


def described(change, part="attention"):
    """A change of a header that changes its description of a part."""

    def changed(header):
        description = json.loads(header["__metadata__"]["description"])
        change(description[part])
        header["__metadata__"]["description"] = json.dumps(description)

    return changed


@pytest.mark.parametrize("way", ["save", "to_html"])
@pytest.mark.parametrize("name", [".", "nowhere/t"])
def test_what_cannot_be_written(trace, tmp_path, way, name):
    with pytest.raises(TraceError, match="cannot be written: "):
        getattr(trace, way)(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cut", [0, 4, 8, 100, 5000, -1])
def test_cut_short(saved, cut):
    data = saved.read_bytes()
    saved.write_bytes(data[:cut])
    with pytest.raises(TraceError, match=r"cut short|not a trace file"):
        g4.open_trace(saved)


def test_newer_versions_are_refused(saved):
    with_header(saved, lambda h: h["__metadata__"].update(version="3"))
    with pytest.raises(TraceError, match=r"version 3 .* reads up to 2: update gemma4-mlx"):
        g4.open_trace(saved)


def test_files_of_version_1_open(saved, trace):
    def older(header):
        header["__metadata__"]["version"] = "1"
        for name in [name for name in header if name.endswith("offset_mass")]:
            del header[name]

    with_header(saved, described(lambda a: [facts.pop("kept") for facts in a["layers"]]))
    with_header(saved, older)
    back = g4.open_trace(saved).attention
    assert back.exactness(3) == "kept" and back.layer(3).offset_mass is None
    assert np.abs(back.row(3, 2, 60) - trace.attention.row(3, 2, 60)).max() < 1e-6


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["tokens.ids"].update(shape=[99]),
        lambda h: h["tokens.ids"].update(dtype="Q4"),
        lambda h: h["tokens.ids"].update(shape=[-100]),
        lambda h: h["tokens.ids"].update(shape="100"),
        lambda h: h["tokens.ids"].update(data_offsets=[0]),
        lambda h: h.pop("tokens.ids"),
        lambda h: h.pop("routing.weights"),
        lambda h: h["__metadata__"].pop("description"),
        lambda h: h["__metadata__"].update(description="{"),
        lambda h: h["__metadata__"].update(description="{}"),
        lambda h: h["__metadata__"].update(description="[]"),
        lambda h: h["__metadata__"].update(description="[" * 9000),
        lambda h: h.pop("attention.2.peak"),
        lambda h: h.pop("attention.2.link_keys"),
        lambda h: h["attention.2.normaliser"]["shape"].reverse(),
        lambda h: h["attention.2.queries"]["shape"].reverse(),
        lambda h: h["attention.1.offset_mass"]["shape"].reverse(),
        described(lambda a: a["layers"][0].update(kept=[0, 9])),
        described(lambda a: a["layers"][0].update(kept=[0])),
        lambda h: h["attention.2.statistics.entropy"]["shape"].reverse(),
        described(lambda a: a["layers"][0].update(back={})),
        described(lambda a: a["layers"][0].update(window="8")),
        described(lambda a: a["layers"][0].update(kv_heads=0)),
        described(lambda a: a.update(width=0)),
        described(lambda lens: lens.update(texts=None), "lens"),
        described(lambda tokens: tokens["texts"].__setitem__(3, 5), "tokens"),
    ],
)
def test_damage_is_named(saved, change):
    with_header(saved, change)
    with pytest.raises(TraceError, match="damaged"):
        g4.open_trace(saved)


@pytest.mark.parametrize(
    "name, value", [("lens.ids", 123_456_789), ("routing.experts", 200), ("tokens.kinds", 99)]
)
def test_values_that_stand_for_nothing(saved, name, value):
    data = bytearray(saved.read_bytes())
    length = struct.unpack("<Q", data[:8])[0]
    entry = json.loads(data[8 : 8 + length])[name]
    size = {"I32": 4, "U8": 1}[entry["dtype"]]
    start = 8 + length + entry["data_offsets"][0]
    data[start : start + size] = value.to_bytes(size, "little")
    saved.write_bytes(data)
    with pytest.raises(TraceError, match=f"damaged.*{value}"):
        g4.open_trace(saved)


def test_a_page_of_a_text_that_utf8_cannot_write(saved, tmp_path):
    with_header(saved, described(lambda t: t["texts"].__setitem__(3, "\ud800"), "tokens"))
    page = g4.open_trace(saved).to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert '"\\ud800"' in page


def test_other_files(tmp_path):
    missing = tmp_path / "missing.g4trace"
    with pytest.raises(TraceError, match="cannot be opened"):
        g4.open_trace(missing)
    with pytest.raises(TraceError, match="cannot be opened"):
        g4.open_trace(tmp_path)
    other = tmp_path / "other.safetensors"
    from safetensors.numpy import save_file

    save_file({"a": np.ones(3)}, other)
    with pytest.raises(TraceError, match="nothing in it says g4trace"):
        g4.open_trace(other)
    (tmp_path / "text").write_text("hello, this is text and not a trace at all")
    with pytest.raises(TraceError, match="not a trace file"):
        g4.open_trace(tmp_path / "text")


def test_arrays_of_every_type_and_shape(tmp_path):
    arrays = {
        "a": np.arange(7, dtype=np.uint8),
        "b": np.ones((2, 0, 3), np.float32),
        "c": np.array(5, np.int64),
        "d": np.arange(24, dtype=np.float32).reshape(2, 3, 4)[:, ::2],
        "e": np.array([True, False]),
        "f": np.arange(6, dtype=np.float16).reshape(3, 2).T,
    }
    fileformat.write(tmp_path / "x", arrays, {"note": "é\u2028"})
    back, note = fileformat.read(tmp_path / "x")
    assert note == {"note": "é\u2028"} and back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype and np.array_equal(back[name], array)
        assert not back[name].flags.writeable or back[name].size == 0
