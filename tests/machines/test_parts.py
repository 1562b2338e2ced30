"""What a rank reads of the files: its parts of the tensors, and hardly a byte more."""

import mlx.core as mx
import pytest
import tiny

from gemma4_mlx.checkpoints.files import Stored
from gemma4_mlx.checkpoints.packing import Packing
from gemma4_mlx.checkpoints.parts import own_parts
from gemma4_mlx.checkpoints.plan import read_plan
from gemma4_mlx.checkpoints.read import read_as_stored
from gemma4_mlx.checkpoints.sharing import divisions, shape_of

LAYOUTS = {
    "mlx": lambda tensors: tensors,
    "google": lambda tensors: tiny.torch_layout(tensors, tiny.google),
}


def packed(tensors):
    """Every matrix of the text in 4 bits, as mlx-community has them."""
    out = {}
    for name, value in tensors.items():
        path = name.removesuffix(".weight")
        if "language_model" in name and value.ndim > 1 and value.shape[-1] % 32 == 0:
            parts = zip(("weight", "scales", "biases"), mx.quantize(value, 32, 4))
            out |= {f"{path}.{part}": array for part, array in parts}
        else:
            out[name] = value
    return out


@pytest.mark.parametrize("strategy", ["tensor", "pipeline"])
@pytest.mark.parametrize("layout", [*LAYOUTS, "packed"])
@pytest.mark.parametrize("size", [2, 3])
def test_parts_are_slices_and_nothing_else_is_read(layout, strategy, size, tmp_path, monkeypatch):
    make = LAYOUTS.get(layout, packed)
    plan = read_plan(tiny.save(tmp_path, tiny.CONFIG, make(tiny.weights(tiny.CONFIG))))
    assert layout != "packed" or Packing(4, 32) in plan.packings.values()
    whole = dict(read_as_stored(plan.sources, lambda *_: None))
    nbytes, fill = [], Stored._fill

    def counted(self, f, view):
        nbytes.append(len(view))
        fill(self, f, view)

    monkeypatch.setattr(Stored, "_fill", counted)
    owned = 0
    for division in divisions(plan.config, plan.packings, [1] * size, strategy):
        sources = own_parts(plan.sources, division)
        nbytes.clear()
        found = dict(read_as_stored(sources, lambda *_: None))
        cut = 0
        for name, array in found.items():
            path, _, kind = name.rpartition(".")
            part = division.part(path) if kind in ("weight", "scales", "biases") else None
            expected = whole[name]
            if part is not None:
                start, stop = part.within(expected.shape[part.axis])
                expected = mx.take(expected, mx.arange(start, stop), axis=part.axis)
                cut += array.nbytes
            assert array.dtype == expected.dtype
            assert mx.array_equal(array, expected)
        assert sum(nbytes) == cut
        owned += sum(array.nbytes for array in found.values())
    total = sum(array.nbytes for array in whole.values())
    assert total <= owned < (1.1 if strategy == "pipeline" else 1.35) * total


def test_shapes_are_what_is_read(tmp_path):
    """The planner's shapes, of matrices as they are."""
    from gemma4_mlx.checkpoints.inventory import tensors

    plan = read_plan(tiny.save(tmp_path, tiny.CONFIG, tiny.weights(tiny.CONFIG)))
    for division in divisions(plan.config, {}, [1, 1, 1], "tensor"):
        sources = own_parts(plan.sources, division)
        for name, tensor in tensors(plan.config).items():
            shape = shape_of(division, name, tensor)
            assert (name in sources) == (shape is not None)
            assert shape is None or sources[name].shape == shape
