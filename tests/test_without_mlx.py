"""What works where MLX does not run: a teacher's trace, the planner, their widgets."""

import pytest
from without_mlx import run

import gemma4_mlx as g4


@pytest.fixture(scope="module")
def trace_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("trace") / "talk.g4trace"
    g4.trace(g4.load(), [{"role": "user", "content": "Note: key 208."}]).save(path)
    return path


def test_a_trace_is_opened_analysed_drawn_and_exported(trace_file, tmp_path):
    done = run(
        """
        trace = g4.open_trace(sys.argv[1])
        trace.attention.tile(5, 0, slice(0, 8), slice(0, 8), (4, 4))
        trace.attention.row(5, 0, query=7)
        trace.attention.find(source=slice(7, 8), target=slice(0, 3))
        trace.routing.load(3), trace.routing.to_dataframe()
        for view in (g4.widgets.Attention(trace), g4.widgets.Routing(trace)):
            wrong = [a for a in view.snapshot().answers.values() if "error" in a]
            assert not wrong, wrong
            view.snapshot_image()
        trace.to_html(sys.argv[2])
        assert not any(name.split(".")[0].startswith("mlx") for name in sys.modules)
        """,
        trace_file,
        tmp_path / "page.html",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").stat().st_size > 10_000


def test_the_planner_plans_for_a_mac_of_this_memory():
    done = run(
        """
        here = g4.fit("e2b")
        assert here.machine.backend == "none" and "a Mac with" in here.verdict
        assert here.total == g4.fit("e2b", memory=16).total
        view = g4.widgets.Fit()
        assert view.plan() == g4.fit("26b-a4b") and "not installed" in view.meta["here"]["lends"]
        view.snapshot_image(), view.snapshot()
        """
    )
    assert done.returncode == 0, done.stderr


def test_the_planner_reads_a_folders_headers(tmp_path):
    model = g4.load()
    g4.save(model, tmp_path)
    done = run("print(g4.fit(sys.argv[1], memory=16).weights)", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(g4.fit(tmp_path, memory=16).weights)


def test_commands_work_or_say_in_one_line_what_they_need(trace_file):
    done = run("sys.exit(cli.main(['fit', 'e2b']) or cli.main(['check']))")
    assert done.returncode == 0, done.stderr
    assert "runtime" in done.stdout and "what works without it: opening" in done.stdout
    for command in (["chat", "hi"], ["trace", "hi"]):
        done = run(f"sys.exit(cli.main({command}))")
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert "needs MLX" in done.stderr and "gemma4-mlx check" in done.stderr
    done = run("g4.load")
    assert "MissingError: gemma4_mlx.load needs MLX" in done.stderr


def test_an_atlas_is_opened_merged_and_asked(tmp_path):
    counting = [f"Count from {i} to {i + 5}: 1, 2, 3, 4, 5, 6, 7" for i in range(3)]
    path = tmp_path / "a.g4atlas"
    g4.atlas(g4.load(), {"count": counting, "talk": ["Hello"]}, progress=False).save(path)
    done = run(
        """
        atlas = g4.open_atlas(sys.argv[1])
        twice = atlas.merge(atlas)
        assert twice.tokens == 2 * atlas.tokens
        twice.load("count"), twice.lifts().experts("count"), twice.to_dataframe()
        twice.vocabulary("predicted"), twice.reap(scaled=False), twice.early_recall()
        twice.examples(0, int(twice.load()[0].argmax())), twice.find("Count")
        view = g4.widgets.Atlas(twice)
        wrong = [a for a in view.snapshot().answers.values() if "error" in a]
        assert not wrong, wrong
        view.snapshot_image(), twice.to_html(sys.argv[2])
        twice.save(sys.argv[1])
        assert not any(name.split(".")[0].startswith("mlx") for name in sys.modules)
        try:
            g4.atlas
        except ImportError as error:
            print(error)
        """,
        path,
        tmp_path / "page.html",
    )
    assert done.returncode == 0, done.stderr
    assert "gemma4_mlx.atlas needs MLX" in done.stdout
