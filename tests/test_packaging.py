"""environment.yml, pyproject.toml and the README agree."""

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_conda_environment_installs_this_package():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    plain = [d for d in environment["dependencies"] if isinstance(d, str)]
    assert f"python{PROJECT['requires-python']}" in plain
    assert "pip" in plain
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    (own,) = pip
    extras = re.fullmatch(r"-e \.\[(.+)\]", own).group(1).split(",")
    assert set(extras) <= PROJECT["optional-dependencies"].keys()


def test_the_course_needs_nothing_beyond_the_first_command():
    """What a notebook imports, and what frames need by default, is installed with the package."""
    names = {re.match(r"[A-Za-z0-9_-]+", d).group().lower() for d in PROJECT["dependencies"]}
    named = {"PIL": "pillow", "IPython": "ipywidgets"}
    needed = {"pandas"}  # RoutingData.to_dataframe()
    for file in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
            for line in cell["source"] if cell["cell_type"] == "code" else ():
                if found := re.match(r"\s*(?:import|from)\s+(\w+)", line):
                    needed.add(named.get(found.group(1), found.group(1)))
    missing = needed - names - sys.stdlib_module_names - {"gemma4_mlx"}
    assert not missing


def test_mlx_is_chosen_by_platform():
    mlx = [d for d in PROJECT["dependencies"] if re.match(r"mlx(\[|>)", d)]
    assert any("darwin" in d and "[" not in d for d in mlx)
    assert any("linux" in d and d.startswith("mlx[cpu]") for d in mlx)


@pytest.mark.parametrize(
    "system, machine, wanted",
    [
        ("darwin", "arm64", {"mlx", "mlx-lm"}),
        ("linux", "x86_64", {"mlx", "mlx-lm"}),
        ("linux", "aarch64", {"mlx", "mlx-lm"}),
        ("win32", "AMD64", set()),
        ("darwin", "x86_64", set()),
    ],
)
def test_where_there_is_no_mlx_the_rest_is_installed(system, machine, wanted):
    there = {"sys_platform": system, "platform_machine": machine}
    given = [Requirement(text) for text in PROJECT["dependencies"]]
    names = {r.name for r in given if r.marker is None or r.marker.evaluate(there)}
    assert {name for name in names if name.startswith("mlx")} == wanted
    assert names >= {"numpy", "pillow", "anywidget", "jupyterlab", "psutil"}


def test_packages_the_project_is_built_on_are_there():
    names = {re.match(r"[A-Za-z0-9_-]+", d).group() for d in PROJECT["dependencies"]}
    assert names >= {"ipywidgets", "mlx", "mlx-lm", "numpy", "pillow", "librosa"}


def test_readme_has_its_two_commands():
    readme = (ROOT / "README.md").read_text()
    for name in ("start-command", "test-command"):
        block = re.search(rf"<!-- {name} -->\s*```\w*\n(.*?)```\s*<!-- /{name} -->", readme, re.S)
        assert block, f"README.md has no {name}"
        assert len(block.group(1).strip().splitlines()) == 1
