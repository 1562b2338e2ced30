"""``pytest --as-gpu float32 | bfloat16``: the package's GPU side, computed by the CPU backend.

Where the package asks MLX for the device it hears "GPU", and so takes the branches that a Mac
takes: MLX's fused attention and norms, packed keys and layers, weights in the type they are
stored in. The arithmetic stays the CPU backend's, so neither Metal's kernels nor its speed are
tested. ``float32`` loads checkpoints in float32: everything that is compared with transformers is
compared as closely as ever. ``bfloat16`` loads them as users do; what is true to float32's last
digits alone is left out there.

Markers: ``cpu`` tests mean MLX's CPU backend and are left out in both modes; ``float32`` tests
compare numbers more closely than 16 bits have them and are left out with bfloat16.
"""

import pytest

MODES = ("float32", "bfloat16")


def pytest_addoption(parser):
    parser.addoption("--as-gpu", choices=MODES, help="take the GPU's branches, on the CPU backend")


def pytest_configure(config):
    if mode := config.getoption("--as-gpu"):
        pretend(mode)


def pytest_collection_modifyitems(config, items):
    mode = config.getoption("--as-gpu")
    if not mode:
        return
    left_out = ("cpu",) if mode == "float32" else ("cpu", "float32")
    for item in items:
        for marker in left_out:
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"--as-gpu {mode}: a test of {marker}"))


def pretend(dtype: str) -> None:
    """Answer "GPU" from now on, make the streams asked for there on the CPU, and load in ``dtype``
    where a test does not say another."""
    from gemma4_mlx.checkpoints import loading  # before MLX: it loads OpenBLAS

    import mlx.core as mx  # isort: skip

    gpu, asked, new_stream = mx.Device(mx.gpu), loading._dtype, mx.new_thread_local_stream
    mx.default_device = lambda: gpu
    mx.new_thread_local_stream = lambda device: new_stream(mx.Device(mx.cpu))
    mx.gather_mm = _widened(mx.gather_mm)
    loading._dtype = lambda given: asked(given) or getattr(mx, dtype)


def _widened(product):
    """MLX's CPU backend gathers float32 matrices only."""
    import mlx.core as mx

    def call(a, b, *arguments, **options):
        wide = product(a.astype(mx.float32), b.astype(mx.float32), *arguments, **options)
        return wide.astype(a.dtype)

    return call
