"""A sweep as a value: axes, tables, the file, damage."""

import json

import numpy as np
import pytest
from without_mlx import run

import gemma4_mlx as g4
from gemma4_mlx.attribution import Sweep
from gemma4_mlx.attribution.sweep_data import FILE
from gemma4_mlx.errors import AttributionError, TraceError
from gemma4_mlx.tracing.data import fileformat
from gemma4_mlx.tracing.data.tokens import Tokens


@pytest.fixture
def sweep():
    tokens = Tokens(range(5, 11), ["The", " key", " is", " 2", "0", "8"])
    effects = np.array([[[0.5, -2], [0, np.nan]], [[1, 0.25], [3, np.nan]]], np.float32)
    return Sweep(
        "heads",
        "restore",
        "logit",
        effects,
        layers=(2, 5),
        indices=(0, 3),
        spans=((1, 2), (3, 6)),
        base=-1.0,
        source=3.0,
        tokens=tokens,
        source_tokens=tokens,
        target=(7, " 2"),
        against=(9, " 9"),
        media=(("a",), ("b",)),
        model={"fingerprint": "f"},
        interventions=("Boost(...)",),
    )


@pytest.fixture
def saved(sweep, tmp_path):
    return sweep.save(tmp_path / "key.g4sweep")


def test_what_it_says(sweep):
    assert sweep.axes == {"layer": (2, 5), "head": (0, 3), "position": ((1, 2), (3, 6))}
    assert sweep.done == 0.75 and len(sweep.places) == 6
    assert sweep.values[1, 1, 0] == 2 and sweep.moved[1, 1, 0] == 0.75
    first, second = sweep.top(2)
    assert (first.layer, first.index, first.positions, first.text) == (5, 3, (1, 2), " key")
    assert (second.effect, second.text) == (-2, " 208")
    assert "2 layers x 2 heads x 2 positions, 75% done" in repr(sweep)
    assert "layer 5 head 3, position 1 ' key' +3.00" in repr(sweep)
    assert "layer 2 head 0, positions 3 to 5 -2.00" in repr(sweep)
    table = sweep.to_dataframe()
    assert list(table.columns) == ["layer", "head", "start", "stop", "text", "effect", "moved"]
    assert table["effect"].tolist() == [0.5, -2, 0, 1, 0.25, 3]
    assert table["moved"].tolist() == [0.125, -0.5, 0, 0.25, 0.0625, 0.75]
    with pytest.raises(TraceError, match="no frame library"):
        sweep.to_dataframe("excel")


def test_everything_comes_back(sweep, saved):
    back = g4.open_sweep(saved)
    assert repr(back) == repr(sweep) and back.places == sweep.places
    assert np.array_equal(back.effects, sweep.effects, equal_nan=True)
    assert back.difference(sweep) is None and back.tokens[:] == sweep.tokens[:]
    for name in ("target", "against", "media", "model", "interventions", "window", "beside"):
        assert getattr(back, name) == getattr(sweep, name), name
    again = back.save(saved.with_name("again.g4sweep"))
    assert again.read_bytes() == saved.read_bytes()
    with pytest.raises(AttributionError, match="cannot be written"):
        back.save(saved / "below")


def test_it_opens_without_mlx(sweep, saved):
    done = run(
        """
        sweep = g4.open_sweep(sys.argv[1])
        print(sweep.top(1)[0].effect), sweep.to_dataframe()
        assert not any(name.split(".")[0].startswith("mlx") for name in sys.modules)
        """,
        saved,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "3.0"
    assert "MissingError: gemma4_mlx.sweep needs MLX" in run("g4.sweep").stderr


def test_other_files_and_cut_ones(saved, tmp_path):
    data = saved.read_bytes()
    for cut in (0, 100, len(data) - 1):
        saved.write_bytes(data[:cut])
        with pytest.raises(AttributionError, match=r"cut short|not a sweep's file"):
            g4.open_sweep(saved)
    with pytest.raises(AttributionError, match="cannot be opened"):
        g4.open_sweep(tmp_path / "nothing.g4sweep")
    saved.write_bytes(data)
    with pytest.raises(AttributionError, match="nothing in it says g4why"):
        g4.open_attribution(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, said: arrays.pop("effects"),
        lambda arrays, said: arrays.pop("indices"),
        lambda arrays, said: arrays.update(layers=arrays["layers"][:1]),
        lambda arrays, said: arrays.update(effects=arrays["effects"].astype(np.float64)),
        lambda arrays, said: arrays.update(spans=arrays["spans"] + 1),
        lambda arrays, said: arrays.update(spans=arrays["spans"][:, ::-1]),
        lambda arrays, said: arrays.update(layers=arrays["spans"]),
        lambda arrays, said: said.update(over="layers"),
        lambda arrays, said: said.update(over="mlp"),
        lambda arrays, said: said.update(direction=None),
        lambda arrays, said: said.update(base=10**400),
        lambda arrays, said: said.update(target=[5]),
        lambda arrays, said: said.update(media=5),
        lambda arrays, said: said.pop("tokens"),
    ],
)
def test_damage_is_named(saved, change):
    arrays, said = fileformat.read(saved, FILE)
    arrays = {name: np.array(array) for name, array in arrays.items()}
    change(arrays, said := json.loads(json.dumps(said)))
    fileformat.write(saved, arrays, said, FILE)
    with pytest.raises(AttributionError, match="damaged"):
        g4.open_sweep(saved)
