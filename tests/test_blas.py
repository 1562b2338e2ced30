"""OpenBLAS runs the kernels that the processor has, and whoever chose others is left alone."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

SAY = "import gemma4_mlx; from gemma4_mlx import _blas; print(_blas.status)"


def status(program=SAY, **environment) -> str:
    """What a fresh process says of its BLAS."""
    inherited = {k: v for k, v in os.environ.items() if "OPENBLAS" not in k}  # others set it
    environment = {**inherited, **environment}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return run.stdout.strip()


@pytest.fixture(autouse=True)
def openblas():
    if sys.platform != "linux":
        pytest.skip("only Linux loads OpenBLAS")
    try:
        ctypes.CDLL("libopenblas.so.0")
    except OSError:
        pytest.skip("OpenBLAS is not installed")


def test_a_processor_that_openblas_does_not_know_gets_its_own_kernels():
    if " avx2 " not in Path("/proc/cpuinfo").read_text():
        pytest.skip("a processor without AVX2")
    said = status()
    assert said.startswith("OpenBLAS (") and "kernels)" in said
    assert "Prescott" not in said


def test_the_choice_in_the_environment_counts():
    assert "Prescott kernels" in status(OPENBLAS_CORETYPE="Prescott")


def test_it_can_be_switched_off():
    assert "switched off" in status(GEMMA4_MLX_OPENBLAS="0")


def test_who_computes_with_torch_starts_again_without_it():
    program = SAY.replace("; print", "; _blas.restart_without_openblas(); print")
    assert "switched off" in status(program)


@pytest.mark.parametrize("module", ["train", "scores"])
def test_training_has_torchs_own_blas(module):
    pytest.importorskip("torch")
    program = (
        "import runpy, sys; sys.argv[1:] = ['--help']\n"
        f"try: runpy.run_module('gemma4_mlx.teaching.{module}', run_name='__main__')\n"
        "except SystemExit: print('/libopenblas' in open('/proc/self/maps').read())"
    )
    assert status(program).endswith("False")
