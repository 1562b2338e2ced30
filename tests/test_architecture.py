"""The rooms of the package and the direction in which they may import one another."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "gemma4_mlx"
LEVELS = [
    {"errors", "arguments", "config", "_blas", "atomic", "lazy", "progress", "safetensors"},
    {"model"},
    {"processing", "checkpoints"},
    {"generation"},
    {"chat", "tracing", "verify", "machines"},
    {"attribution", "studies"},
    {"widgets"},
    {"teaching", "cli", "__init__", "__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def imports(path):
    """(module, at import time?) of every import in a file, relative ones made absolute."""
    package = ["gemma4_mlx", *path.relative_to(PACKAGE).parts[:-1]]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # What only a type checker imports is no import.
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    top = {
        id(node) for node in ast.walk(tree) if isinstance(node, ast.Module) for node in node.body
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module == "gemma4_mlx" or not node.module:
                for alias in node.names:
                    yield f"{module}.{alias.name}", id(node) in top
            else:
                yield module, id(node) in top


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_has_a_level():
    rooms = {p.name.removesuffix(".py") for p in PACKAGE.iterdir() if not p.name.startswith("__p")}
    assert rooms - LEVEL.keys() == set()


def test_imports_point_one_way():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        here = room_of(path)
        for module, at_import in imports(path):
            parts = module.split(".")
            if parts[0] != "gemma4_mlx" or len(parts) < 2 or parts[1] not in LEVEL:
                continue
            there = parts[1]
            # Imports inside a function may go up: a chat offers a trace of itself.
            if at_import and there != here and LEVEL[there] > LEVEL[here]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {module}")
    assert wrong == []


def test_modules_import_one_another_relatively_and_in_no_circle():
    """Also inside functions, where a circle of one room could hide."""
    modules = {".".join(["gemma4_mlx", *path.relative_to(PACKAGE).with_suffix("").parts]): path
               for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}  # fmt: skip
    reached = {
        module: {name for name, _ in imports(path) if name in modules and room_of(path) == room}
        for module, path in modules.items()
        for room in [module.split(".")[1]]
    }

    def behind(module, seen):
        for other in reached[module] - seen:
            if room_of(modules[other]) == room_of(modules[module]):
                seen.add(other)
                behind(other, seen)
        return seen

    circles = {module for module in modules if module in behind(module, set())}
    assert circles == set()
    absolute = [
        path.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and not node.level
        and (node.module or "").startswith("gemma4_mlx")
    ]  # fmt: skip
    assert absolute == []


def test_docstrings_have_one_dialect():
    underlined = re.compile(r"\n +-{4,}\n")
    found = [p.name for p in PACKAGE.rglob("*.py") if underlined.search(p.read_text("utf-8"))]
    assert found == []


def test_no_module_takes_the_place_of_a_public_name():
    """Importing a module binds its name in its package, over what is found there by __getattr__."""
    hidden = []
    for init in PACKAGE.rglob("__init__.py"):
        package = import_module(".".join(init.parent.relative_to(PACKAGE.parent).parts))
        modules = {path.stem for path in init.parent.glob("*.py")}
        for name in sorted(modules & set(getattr(package, "__all__", ()))):
            value = getattr(package, name)
            import_module(f"{package.__name__}.{name}")
            if getattr(package, name) is not value:
                hidden.append(f"{package.__name__}.{name}")
    assert not hidden


def test_the_data_of_a_trace_needs_no_model():
    """What was observed stands apart from what observes: numpy alone, no MLX, no recorder."""
    data = [
        *(PACKAGE / "tracing" / "data").rglob("*.py"),
        *(PACKAGE / "studies" / "data").rglob("*.py"),
        *(PACKAGE / "attribution").glob("*data.py"),
    ]
    wrong = [
        f"{path.name} imports {module}"
        for path in data
        for module, at_import in imports(path)
        if "tracing.recording" in module
        or "studies.building" in module
        or (at_import and module.split(".")[0] == "mlx")
    ]
    assert wrong == []


def test_importing_the_package_is_light():
    code = "import sys, gemma4_mlx; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = {"mlx_lm", "transformers", "librosa", "anywidget", "pydantic", "torch", "jinja2"}
    assert heavy & set(loaded.stdout.split()) == set()


def test_a_trace_opens_without_mlx():
    code = (
        "import sys; sys.modules['mlx'] = None; sys.modules['mlx.core'] = None\n"
        "import gemma4_mlx as g4; print(g4.open_trace)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_models_files_are_a_macs():
    """What other devices compute is behind ``model/ops.py``, which alone asks for the device."""
    model = PACKAGE / "model"
    for name in ("attention", "decoder", "moe", "layers", "vision", "audio"):
        assert "cpu" not in (model / f"{name}.py").read_text(encoding="utf-8").lower(), name
    asking = {
        str(path.relative_to(model))
        for path in model.rglob("*.py")
        if "default_device" in path.read_text(encoding="utf-8")
    }
    assert asking == {"ops.py"}
