"""The README's tour can be pasted and run."""

import ast
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from gemma4_mlx.checkpoints import fit_table
from gemma4_mlx.checkpoints.machine import Machine

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


TOUR = re.search(r"<!-- tour -->\s*```python\n(.*?)```\s*<!-- /tour -->", README, re.S)[1]


def expected(statement: ast.stmt) -> str | None:
    """The value shown below a statement, as the next line's comment; None where there is none."""
    after = TOUR.splitlines()[statement.end_lineno : statement.end_lineno + 1]
    return after[0].removeprefix("# ") if after and after[0].startswith("# ") else None


def test_the_tour_shows_what_it_says(tmp_path, monkeypatch):
    """Every line runs, and every value is the one in the comment below it."""
    monkeypatch.chdir(tmp_path)
    names, shown = {}, {}
    for statement in ast.parse(TOUR).body:
        code = ast.unparse(statement)
        if not isinstance(statement, ast.Expr):
            exec(code, names)
        else:
            value = eval(code, names)
            if value is not None and not isinstance(value, Path):
                shown[code] = (repr(value), expected(statement))
    assert len(shown) >= 7
    assert {code: value for code, (value, _) in shown.items()} == {
        code: said for code, (_, said) in shown.items()
    }
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("talk.g4trace", "talk.html"))
    assert not names["model"].interventions


def test_the_four_more_uses_of_the_routing_view():
    """Live, what if, by name, and two texts: each line gives the view that its comment says."""
    import gemma4_mlx as g4

    example = re.search(r"<!-- routing -->\s*```python\n(.*?)```", README, re.S)[1]
    model = g4.load()
    chat = g4.Chat(model)
    chat.send("Hello", temperature=0, max_tokens=20)
    names, views = {"g4": g4, "model": model, "trace": chat.trace()}, []
    for statement in ast.parse(example).body:
        code = ast.unparse(statement)
        if isinstance(statement, ast.Expr):
            views.append(eval(code, names))
        else:
            exec(code, names)
    live, what_if, named, both = views
    assert named.meta["atlas"] == g4.teaching.atlas().tokens and named.meta["whatif"] == ""
    assert live.meta["live"] and not both.meta["live"]
    assert what_if.meta["whatif"] == "" and both.meta["whatif"] and live.meta["whatif"]
    assert both.meta["other"]["n"] == len(names["sums"].tokens)
    assert names["code"].compare_routing(names["sums"]).p_value < 0.05


def test_the_adapter_example_runs(tmp_path, monkeypatch):
    import mlx.core as mx

    import gemma4_mlx as g4

    base = g4.load()
    out, width = base.layers[0].self_attn.o_proj.weight.shape
    name = "language_model.model.layers.0.self_attn.o_proj.lora_"
    tensors = {name + "a": mx.full((width, 2), 0.02), name + "b": mx.full((2, out), 0.05)}
    (tmp_path / "adapter").mkdir()
    mx.save_safetensors(str(tmp_path / "adapter" / "adapters.safetensors"), tensors)
    about = {"fine_tune_type": "lora", "num_layers": 8, "lora_parameters": {"scale": 4.0}}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(about))
    monkeypatch.chdir(tmp_path)
    example = re.search(r"<!-- adapters -->\s*```python\n(.*?)```", README, re.S)[1]
    names = {}
    exec(example, names)
    tokens = mx.arange(5, 25)[None]
    merged, plain = g4.load("merged")(tokens), base(tokens)
    half = names["model"](tokens)
    assert mx.abs(half - plain).max() > 5 * mx.abs(merged - half).max()


def test_the_atlas_example_runs(tmp_path, monkeypatch):
    import gemma4_mlx as g4

    monkeypatch.chdir(tmp_path)
    example = re.search(r"<!-- atlas -->\s*```python\n(.*?)```", README, re.S)[1]
    names = {"g4": g4}
    exec(example, names)
    assert names["best"]["lift"] > 0.5 and names["without"].experts
    assert g4.open_atlas("tiny.g4atlas").labels == ("arithmetic", "chat", "code")
    page = Path("tiny.html").read_text(encoding="utf-8")
    assert "Expert atlas" in page and page.count('"type\\":\\"card\\"') > 100


@pytest.fixture(scope="module")
def table():
    return fit_table(memory=64, contexts=[1024 * k for k in (8, 32, 128, 256)]).fits


@pytest.mark.parametrize("name", ["E2B", "E4B", "12B", "26B-A4B", "31B"])
def test_what_runs_on_which_mac_is_what_fit_says(name, table):
    cells = re.search(rf"^\| {name} \|(.*)\|$", README, re.M).group(1).split("|")
    *needed, smallest = (cell.strip() for cell in cells)
    row = table[name.lower(), 4]
    for k, shown in zip((8, 32, 128, 256), needed):
        fit = row.get(1024 * k)
        assert (fit is None) == (shown == "–")
        assert fit is None or abs(fit.total / 2**30 - float(shown)) < 0.25
    total = row[8192].total
    enough = next(gib for gib in (8, 16, 24, 36, 48, 64) if Machine.mac(gib).usable >= total)
    assert smallest.startswith(f"{enough} GB")


def test_what_is_said_of_security_names_its_tests():
    section = re.search(r"^## Security\n(.*?)^## ", README, re.M | re.S)[1]
    claims = [line for line in section.splitlines() if line.startswith("- ")]
    assert len(claims) >= 6
    for claim in claims:
        named = re.findall(r"\[test\]\((tests/[\w/]+\.py)\)", claim)
        assert named, claim
        for name in named:
            assert "def test_" in (ROOT / name).read_text(encoding="utf-8")


def test_weights_on_disk_are_as_described():
    """The example runs, with the teaching model for the two that it loads."""
    import gemma4_mlx as g4

    fit = g4.fit("26b-a4b", memory=24)
    parts = re.search(r"experts of 26B-A4B are (\d+) of its (\d+) GiB", README)
    sizes = fit.weights["experts"], sum(fit.weights.values())
    assert [round(size / 2**30) for size in sizes] == [int(n) for n in parts.groups()]
    example = re.search(r"<!-- on-disk -->\s*```python\n(.*?)```", README, re.S)[1]
    names, loaded = re.findall(r'load\("([^"]+)"', example), {}

    def load(name, **options):
        loaded[name] = g4.load(**options)
        return loaded[name]

    exec(example, {"g4": SimpleNamespace(load=load, fit=g4.fit)})
    assert list(loaded) == names
    assert loaded[names[0]].on_disk.slots == 16 and loaded[names[1]].on_disk.layers == 8
