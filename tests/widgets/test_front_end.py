"""The front end's files: each parses, the bundle is what its sources say, nothing is fetched."""

import json
import re
import shutil
import subprocess

import pytest

from gemma4_mlx.widgets.base import STATIC, join_esm

VENDOR = STATIC / "vendor"
MODULES = sorted(STATIC.glob("*.js"))
WIDGETS = sorted(p.stem for p in MODULES if "export default" in p.read_text(encoding="utf-8"))


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js parses the modules")
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
    long = {p.name: n for p in MODULES if (n := len(p.read_text("utf-8").splitlines())) > 1000}
    assert not long


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
