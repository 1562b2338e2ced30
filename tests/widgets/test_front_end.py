"""The front end's files: each parses, its parts do what they say, nothing is fetched.

``.biome.json`` has the rules of their style, which CI checks: functions of at most 60 lines,
nothing unused or undeclared.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gemma4_mlx.widgets.base import STATIC, join_esm

VENDOR = STATIC / "vendor"
UNITS = Path(__file__).parent / "front"  # tests that run in Node.js
MODULES = sorted(STATIC.glob("*.js"))
WIDGETS = sorted(p.stem for p in MODULES if "export default" in p.read_text(encoding="utf-8"))


needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js")


@needs_node
@pytest.mark.parametrize("name", WIDGETS)
def test_joined_modules_parse(name, tmp_path):
    module = tmp_path / f"{name}.mjs"
    module.write_text(join_esm(name), encoding="utf-8")
    subprocess.run(["node", "--check", module], check=True)


@pytest.mark.parametrize("name", WIDGETS)
def test_a_joined_module_is_one_and_small(name):
    text = join_esm(name)
    assert not re.search(r"^import |^export (?!default)", text, re.M)
    # Every instance's module is saved in the notebook; five widgets have to stay under 2 MB.
    assert len(text.encode()) < 300_000


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.name)
def test_modules_fetch_nothing_and_write_no_html(path):
    text = path.read_text(encoding="utf-8")
    for never in (
        "innerHTML",
        "insertAdjacentHTML",
        "document.write",
        "fetch(",
        "import(",
        "eval(",
    ):
        assert never not in text


def test_own_modules_are_short():
    long = {p.name: n for p in MODULES if (n := len(p.read_text("utf-8").splitlines())) > 500}
    assert not long


def test_lines_are_short():
    tests = sorted(UNITS.glob("*.mjs"))
    lines = {f"{p.name}:{i}": n for p in [*MODULES, *tests] for i, n in lengths(p) if n > 100}
    assert not lines


def lengths(path):
    return enumerate(map(len, path.read_text("utf-8").splitlines()), 1)


@needs_node
def test_the_parts_do_what_they_say():
    files = sorted(UNITS.glob("*.test.mjs"))
    run = subprocess.run(["node", "--test", *files], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"pass [1-9]\d+", run.stdout), run.stdout


def test_the_bundle_names_the_versions_it_was_made_from():
    package = json.loads((VENDOR / "package.json").read_text())
    lock = json.loads((VENDOR / "package-lock.json").read_text())["packages"]
    bundle = (VENDOR / "markdown.js").read_text(encoding="utf-8")
    licences = (VENDOR / "LICENSES.txt").read_text(encoding="utf-8")
    for name, version in (package["dependencies"] | package["devDependencies"]).items():
        assert lock[f"node_modules/{name}"]["version"] == version
        assert f"// {name} {version}\n" in bundle
    for name, version in package["dependencies"].items():
        assert f"==== {name} {version}" in licences


def test_the_bundle_is_what_its_sources_build():
    if shutil.which("npm") is None:
        pytest.skip("npm rebuilds the bundle")
    built = subprocess.run(["sh", VENDOR / "build.sh", "--check"], capture_output=True, text=True)
    if built.returncode == 77:
        pytest.skip("no npm registry within reach")
    assert built.returncode == 0, built.stdout + built.stderr
