"""An attribution as a value: tables, the file, damage."""

import json
import struct

import numpy as np
import pytest
from without_mlx import run

import gemma4_mlx as g4
from gemma4_mlx.attribution import Attribution
from gemma4_mlx.attribution.file import AXES, FILE, PLAIN
from gemma4_mlx.errors import AttributionError, TraceError
from gemma4_mlx.tracing import Tokens
from gemma4_mlx.tracing.data import fileformat


@pytest.fixture(scope="module")
def why():
    return g4.attribute(g4.load(), "Note: key 208. The key is 20", "8", against="9")


@pytest.fixture
def saved(why, tmp_path):
    return why.save(tmp_path / "key.g4why")


@pytest.fixture
def media():
    """Of a prompt with a picture of 2 x 3 soft tokens and a sound of 2, every array there."""
    rng, nan, n = np.random.default_rng(0), np.nan, 11
    boxes, times = np.full((n, 4), nan), np.full((n, 2), nan)
    boxes[2:8] = [(x, y, x + 10, y + 20) for y in (0, 20) for x in (0, 10, 20)]
    times[9:] = (0, 0.5), (0.5, 1)
    where = np.array([-1, -1, *[0] * 6, -1, 1, 1])
    tokens = Tokens(
        range(n), [f"t{i}" for i in range(n)], (where >= 0) * 3, ["user"] * n, boxes, times, where,
        ["cat.png", "meow.wav"],
    )  # fmt: skip
    sizes = {"layer": 3, "head": 2, "rank": 4, "position": n}

    def array(name):
        shape = [sizes[axis] for axis in AXES[name]]
        return rng.normal(size=shape).astype(np.float32)

    return Attribution(
        (None, "a cat"),
        None,
        9,
        2.5,
        0.25,
        **{name: array(name) for name in AXES} | {"expert_ids": np.arange(12).reshape(3, 4)},
        base=-1.0,
        stop=11,
        tokens=tokens,
        media=[np.zeros((40, 30, 3), np.uint8), np.zeros(16_000, np.float32)],
        method="patching",
        interventions=("Boost()",),
    )


def assert_comes_back(why, path):
    back = g4.open_attribution(why.save(path))
    assert repr(back) == repr(why) and back.sources == why.sources
    for name in AXES:
        mine, its = getattr(why, name), getattr(back, name)
        assert (mine is None and its is None) or np.array_equal(its, mine), name
    for name in (*PLAIN, "interventions"):
        assert getattr(back, name) == getattr(why, name), name
    assert list(back.tokens) == list(why.tokens)
    assert all(np.array_equal(a, b) for a, b in zip(back.media, why.media, strict=True))
    again = back.save(path.with_name("again.g4why"))
    assert again.read_bytes() == path.read_bytes()
    return back


def test_everything_comes_back(why, media, tmp_path):
    assert_comes_back(media, tmp_path / "media.g4why")
    back = assert_comes_back(why, tmp_path / "key.g4why")
    with pytest.raises(AttributionError, match="opened from a file"):
        back.check()


def test_it_opens_without_mlx(why, saved):
    done = run(
        """
        why = g4.open_attribution(sys.argv[1])
        print(why.top(1)[0]), why.to_dataframe()
        assert why.tokens.text.startswith("<bos>Note")
        assert not any(name.split(".")[0].startswith("mlx") for name in sys.modules)
        """,
        saved,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(why.top(1)[0])
    done = run("g4.attribute")
    assert "MissingError: gemma4_mlx.attribute needs MLX" in done.stderr


def test_tables_and_the_largest_parts(why):
    shares = [part.share for part in why.top(len(why.parts))]
    assert sorted(shares) == sorted(part.share for part in why.parts)
    assert (np.diff(np.abs(shares)) <= 0).all()
    assert {part.kind for part in why.top(5, "expert", "mlp")} <= {"expert", "mlp"}
    table = why.to_dataframe()
    assert list(table.columns) == ["kind", "layer", "index", "text", "share"]
    assert len(table) == len(why.parts) and abs(table["share"].sum() - why.total) < 1e-3
    layers, heads = why.heads.shape
    assert (table["kind"] == "head").sum() == layers * heads
    with pytest.raises(TraceError, match="no frame library"):
        why.to_dataframe("excel")
    assert "'8' against '9'" in repr(why)


def test_positions_and_media(media, why):
    assert len(media.sources) == len(media.parts) + 11
    best = media.top(1, "position")[0]
    assert best.index == np.abs(media.positions).argmax() and best.text == f"t{best.index}"
    assert str(best) == f"position {best.index} 't{best.index}'"
    remainder = media.total + 1 - media.positions.sum(dtype=np.float64)
    assert media.remainder == pytest.approx(remainder)
    assert np.array_equal(media.picture(0), media.positions[2:8].reshape(2, 3))
    shares, times = media.sound(1)
    assert np.array_equal(shares, media.positions[9:]) and times[1].tolist() == [0.5, 1]
    table = media.to_dataframe()
    table = table[table["kind"] == "position"]
    assert table["text"].tolist() == media.tokens.texts and set(table["layer"]) == {-1}
    for wrong, words in (
        (lambda: media.picture(1), "1 is no picture"),
        (lambda: media.sound(0), "0 is no sound"),
        (lambda: media.picture(2), "no medium 2: the prompt has 2"),
        (lambda: media.sound(-1), "no medium -1"),
        (lambda: why.picture(0), "'direct' gives positions no shares"),
    ):
        with pytest.raises(AttributionError, match=words):
            wrong()


def test_files_of_version_1(why, saved):
    arrays, said = fileformat.read(saved, FILE)
    arrays = {name: np.array(arrays[name]) for name in arrays if name in AXES}
    said = {name: said[name] for name in said if name not in ("tokens", "base", "stop")}
    fileformat.write(saved, arrays, said, fileformat.Kind("g4why", "", 1, AttributionError))
    back = g4.open_attribution(saved)
    assert back.parts == why.parts and (back.stop, back.base) == (why.stop, None)
    assert back.tokens is None and back.media == []


def test_other_files_and_cut_ones(saved, tmp_path):
    data = saved.read_bytes()
    for cut in (0, 8, 100, len(data) - 1):
        saved.write_bytes(data[:cut])
        with pytest.raises(AttributionError, match=r"cut short|not an attribution's file"):
            g4.open_attribution(saved)
    with pytest.raises(AttributionError, match="cannot be opened"):
        g4.open_attribution(tmp_path / "nothing.g4why")
    saved.write_bytes(data)
    with pytest.raises(TraceError, match="nothing in it says g4trace"):
        g4.open_trace(saved)
    newer = data.replace(b'"version": "2"', b'"version": "9"')
    saved.write_bytes(newer)
    with pytest.raises(AttributionError, match=r"version 9 of the g4why format.* up to 2"):
        g4.open_attribution(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, said: arrays.pop("heads"),
        lambda arrays, said: arrays.pop("expert_ids"),
        lambda arrays, said: arrays.update(mlp=arrays["mlp"][:-1]),
        lambda arrays, said: arrays.update(heads=arrays["mlp"]),
        lambda arrays, said: arrays.update(more=arrays["mlp"]),
        lambda arrays, said: said.update(target=5),
        lambda arrays, said: said.update(target=[5]),
        lambda arrays, said: said.update(total=10**400),
        lambda arrays, said: said.update(model=None),
        lambda arrays, said: said.pop("against"),
        lambda arrays, said: said.pop("tokens"),
        lambda arrays, said: said["tokens"].update(roles=[]),
        lambda arrays, said: said.update(base="much"),
        lambda arrays, said: said.update(against=[None, "8"]),
        lambda arrays, said: arrays.pop("tokens.ids"),
        lambda arrays, said: arrays.pop("media.0"),
        lambda arrays, said: arrays.pop("media.1"),
        lambda arrays, said: arrays.update(positions=arrays["positions"][:-1]),
        lambda arrays, said: arrays.update({"tokens.boxes": arrays["tokens.boxes"][:-1]}),
        lambda arrays, said: [arrays.pop(name) for name in ("heads", "mlp")],
    ],
)
def test_damage_is_named(media, tmp_path, change):
    saved = media.save(tmp_path / "media.g4why")
    arrays, said = fileformat.read(saved, FILE)
    arrays = {name: np.array(array) for name, array in arrays.items()}
    change(arrays, said)
    fileformat.write(saved, arrays, said, FILE)
    with pytest.raises(AttributionError, match="damaged"):
        g4.open_attribution(saved)


def test_the_header_is_a_safetensors_one(saved):
    data = saved.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    assert header["__metadata__"]["format"] == "g4why" and header["heads"]["dtype"] == "F32"
    with pytest.raises(AttributionError, match="cannot be written"):
        g4.open_attribution(saved).save(saved / "below")
