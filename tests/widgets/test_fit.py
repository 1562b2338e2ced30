"""The Fit widget's Python side: the planner's numbers, in the order the bar is drawn."""

import pytest

import gemma4_mlx as g4
from gemma4_mlx.errors import ConfigError
from gemma4_mlx.widgets.fit import PARTS, Fit


@pytest.fixture(scope="module")
def view():
    return Fit(memory=24, model="26b-a4b", context=32_768)


@pytest.mark.parametrize("model", ["e2b", "e4b", "12b", "26b-a4b", "31b"])
@pytest.mark.parametrize("kv_bits", [16, 8])
def test_plans_are_the_planners(view, model, kv_bits):
    answer = view.answer_plans(model, kv_bits)
    for bits, context, memory in ((4, 1024, 24), (8, 32_768, 16), (16, 131_072, 128)):
        plan = g4.fit(model, bits, context, kv_bits if kv_bits < 16 else None, memory)
        sizes = answer["plans"][str(bits)][str(context)]
        assert sum(sizes) == plan.total
        assert dict(zip(PARTS, sizes))["experts"] == plan.weights.get("experts", 0)
        assert answer["most"][str(bits)][str(memory)] == plan.most
        assert answer["usable"][str(memory)] == plan.machine.usable


@pytest.mark.parametrize("model, bits, kv_bits", [("e2b", 16, 16), ("26b-a4b", 4, 8)])
def test_this_machine_is_what_fit_says_it_is(model, bits, kv_bits):
    view = Fit(model=model, bits=bits, kv_bits=kv_bits)
    plan = g4.fit(model, bits, 8192, kv_bits % 16 or None)
    assert view.plan() == plan
    answer = view.answer_plans(model, kv_bits, here=True)
    assert answer["usable"] == {"null": plan.machine.usable}
    assert sum(answer["plans"][str(bits)]["8192"]) == plan.total
    assert answer["most"][str(bits)] == {"null": plan.most}
    assert view.meta["here"]["memory"] == plan.machine.memory
    assert ("macOS" in view.meta["here"]["lends"]) == (plan.machine.backend == "metal")


def test_contexts_beyond_a_model_have_no_plan(view):
    answer = view.answer_plans("e2b", 16)
    assert answer["plans"]["4"]["262144"] is None and answer["longest"] == 131_072


def test_choices(view):
    assert view.plan().name == "26b-a4b" and view.plan().context == 32_768
    assert Fit(memory=40).meta["memories"].count(40.0) == 1
    assert Fit().memory is None
    assert Fit(model="google/gemma-4-E4B-it").model == "e4b"
    assert Fit(bits=None, kv_bits=None).plan() == Fit(bits=16, kv_bits=16).plan()
    for model in ("gpt", object()):
        with pytest.raises(ConfigError):
            Fit(model=model)


def test_snapshot_answers_everything(view):
    snapshot = view.snapshot()
    assert not [a for a in snapshot.answers.values() if "error" in a]
    assert len(snapshot.page) < 600_000
    assert view.snapshot_image().width > 800
    assert b"26b-a4b" in view.answer_export("svg")[1]
