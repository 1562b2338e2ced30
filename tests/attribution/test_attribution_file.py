"""An attribution as a value: tables, the file, damage."""

import json
import struct

import numpy as np
import pytest
from without_mlx import run

import gemma4_mlx as g4
from gemma4_mlx.attribution.data import AXES
from gemma4_mlx.errors import AttributionError, TraceError
from gemma4_mlx.tracing.data import fileformat


@pytest.fixture(scope="module")
def why():
    return g4.attribute(g4.load(), "Note: key 208. The key is 20", "8", against="9")


@pytest.fixture
def saved(why, tmp_path):
    return why.save(tmp_path / "key.g4why")


def test_everything_comes_back(why, saved):
    back = g4.open_attribution(saved)
    assert repr(back) == repr(why) and back.parts == why.parts
    for name in AXES:
        assert np.array_equal(getattr(back, name), getattr(why, name)), name
    for name in ("target", "against", "position", "total", "method", "model", "interventions"):
        assert getattr(back, name) == getattr(why, name), name
    again = back.save(saved.with_name("again.g4why"))
    assert again.read_bytes() == saved.read_bytes()
    with pytest.raises(AttributionError, match="opened from a file"):
        back.check()


def test_it_opens_without_mlx(why, saved):
    done = run(
        """
        why = g4.open_attribution(sys.argv[1])
        print(why.top(1)[0]), why.to_dataframe()
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
    assert list(table.columns) == ["kind", "layer", "index", "share"]
    assert len(table) == len(why.parts) and abs(table["share"].sum() - why.total) < 1e-3
    layers, heads = why.heads.shape
    assert (table["kind"] == "head").sum() == layers * heads
    with pytest.raises(TraceError, match="no frame library"):
        why.to_dataframe("excel")
    assert "'8' against '9'" in repr(why)


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
    newer = data.replace(b'"version": "1"', b'"version": "9"')
    saved.write_bytes(newer)
    with pytest.raises(AttributionError, match=r"version 9 of the g4why format.* up to 1"):
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
    ],
)
def test_damage_is_named(saved, change):
    arrays, said = fileformat.read(saved, g4.attribution.data.FILE)
    arrays = {name: np.array(array) for name, array in arrays.items()}
    change(arrays, said)
    fileformat.write(saved, arrays, said, g4.attribution.data.FILE)
    with pytest.raises(AttributionError, match="damaged"):
        g4.open_attribution(saved)


def test_the_header_is_a_safetensors_one(saved):
    data = saved.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    assert header["__metadata__"]["format"] == "g4why" and header["heads"]["dtype"] == "F32"
    with pytest.raises(AttributionError, match="cannot be written"):
        g4.open_attribution(saved).save(saved / "below")
