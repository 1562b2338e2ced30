"""README.md's table of files that load says what the tests of each row assert."""

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
README = (HERE.parents[1] / "README.md").read_text(encoding="utf-8")
TABLE = README.split("| files | weights |\n|---|---|\n")[1].split("\n\n")[0]
ROWS = dict(re.fullmatch(r"\| (.+) \| (.+) \|", line).groups() for line in TABLE.splitlines())

#: Beginning of a row -> where it is tested.
TESTS = {
    "16 bit": "test_layouts.py::test_google_layout",
    "MLX": "test_quantized.py::test_modes",
    "compressed-tensors, whole": "test_foreign.py::test_same_model_as_the_decoded_weights",
    "the same in groups": "test_foreign.py::test_reordered_columns",
    "FP8": "test_foreign.py::test_same_model_as_the_decoded_weights",
    "MXFP4": "test_foreign.py::test_same_model_as_the_decoded_weights",
    "NVFP4": "test_foreign.py::test_modelopts_names_of_nvfp4",
    "Google's mobile": "test_foreign.py::test_calibrated",
    "GGUF: Q4_0": "test_gguf.py::test_types",
    "GGUF: Q2_K": "test_gguf.py::test_types",
    "GPTQ": "test_foreign.py::test_method_in_the_configuration",
}


def tree(file):
    return ast.walk(ast.parse((HERE / file).read_text(encoding="utf-8")))


def constant(file, name):
    """A dictionary of literals that a test file defines at its top."""
    for node in tree(file):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == name:
            return ast.literal_eval(node.value)
    raise KeyError(name)


def row(beginning):
    return next((files, held) for files, held in ROWS.items() if files.startswith(beginning))


def test_every_row_has_a_test():
    assert [next(b for b in TESTS if files.startswith(b)) for files in ROWS] == list(TESTS)
    for where in TESTS.values():
        file, name = where.split("::")
        assert any(isinstance(n, ast.FunctionDef) and n.name == name for n in tree(file)), where


@pytest.mark.parametrize(
    ("beginning", "schemes"),
    [
        ("compressed-tensors, whole", ["int4", "int4_asymmetric", "int3", "int8", "int4_row"]),
        ("the same in groups", ["int4_small_groups"]),
        ("FP8", ["fp8_row", "fp8_tensor", "fp8_block"]),
        ("MXFP4", ["mxfp4", "mxfp8"]),
    ],
)
def test_packed_or_decoded(beginning, schemes):
    kept = constant("test_foreign.py", "KEPT")
    held = row(beginning)[1]
    assert {("packed" if kept[scheme] else "decoded") for scheme in schemes} == {held}


def test_nvfp4_is_either():
    kept = constant("test_foreign.py", "KEPT")
    assert kept["nvfp4_exact"] and not kept["nvfp4"]
    assert row("NVFP4")[1].startswith("packed where") and row("NVFP4")[1].endswith("else decoded")


def test_types_of_gguf():
    kept = constant("test_gguf.py", "KEPT")
    files, held = row("GGUF: Q4_0")
    assert files.removeprefix("GGUF: ").split(", ") == list(kept) and held.startswith("packed")
    pytest.importorskip("gguf")
    from gemma4_mlx.checkpoints.foreign.gguf_header import TYPES

    others = {name for name, _, _ in TYPES.values()} - kept.keys() - {"F32", "F16", "BF16"}
    files, held = row("GGUF: Q2_K")
    named = re.findall(r"[A-Z][A-Z0-9_]+", files.removeprefix("GGUF: "))
    assert all(any(other.startswith(name) for name in named) for other in others)
    assert held.startswith("decoded")
