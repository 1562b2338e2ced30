"""What evaluate tells of needed parts and of prompts from outside is what really happens."""

import numpy as np
import pytest

import gemma4_mlx as g4
from gemma4_mlx.teaching import insides, needed, outside, skills
from gemma4_mlx.teaching.evaluate import Runner


@pytest.fixture(scope="module")
def runner():
    return Runner(g4.load())


@pytest.fixture(scope="module")
def sums():
    return insides.samples_of("arithmetic", 4)


def test_answers_change_only_where_something_is_taken_away(runner, sums):
    answers = needed.Answers(runner, sums)
    assert answers.changed() == 0 and answers.rise() == 0
    spoken = [runner.decode(sample) for sample in sums]
    with runner.model.intervene(*(needed.silence(layer, range(4)) for layer in range(8))):
        others = [runner.decode(sample) for sample in sums]
        assert answers.changed() == np.mean([a != b for a, b in zip(spoken, others)]) == 1
        assert answers.rise() > 1
    assert answers.changed() == 0


def test_a_dropped_expert_adds_nothing(runner, sums):
    outputs, weights = {}, {}

    def look(name, layer, value, geometry):
        if name == "expert_indices" and layer == 3:
            outputs["chosen"] = np.array(value)
        if name == "expert_weights" and layer == 3:
            weights["given"] = np.array(value)

    with runner.model.observe(look):
        runner.loss(sums[0])
        expert = int(np.bincount(outputs["chosen"].ravel()).argmax())
        with runner.model.intervene(needed.drop(3, expert)):
            runner.loss(sums[0])
    assert not weights["given"][outputs["chosen"] == expert].any()


def test_the_control_is_another_expert_of_like_load():
    load = np.array([[0.4, 0.0, 0.05, 0.35, 0.1, 0.1]])
    assert needed.control(load, 0, 0) in (3, 4, 5)
    assert needed.control(load, 0, 4) != 4


def test_a_look_up_needs_the_heads_that_read_it(runner):
    """All heads of the layers that see everything together; the head that is needed most is none
    without which more are right than without another."""
    skill = next(s for s in skills.SKILLS if s.name == "needle, 1K")
    samples = skills.draw(skill, samples=2)
    assert all(map(runner.exact, samples))
    text = runner.model.config.text
    full = [i for i in range(text.num_hidden_layers) if text.is_full(i)]
    with runner.model.intervene(*(needed.silence(i, range(4)) for i in full)):
        assert not any(map(runner.exact, samples))
    assert needed.carried(runner, samples, full[-1], ()) == 0  # nothing put in carries nothing


def test_an_answer_from_outside_is_judged_to_its_end(runner):
    known = outside.asked("Hello!", "Hello! How can I help you?")
    strange = outside.asked("Hello!", "I do not know that.")
    right, ended, texts = outside.answered(runner, [known, strange])
    assert right == [True, False] and ended == [True, True] and texts[0] == texts[1]
