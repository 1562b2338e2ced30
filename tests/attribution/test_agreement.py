"""Attribution patching against really patching, on the teaching model's needle."""

import numpy as np
import pytest

import gemma4_mlx as g4
from gemma4_mlx.errors import AttributionError
from gemma4_mlx.tracing.recording.run import inputs_of

WORDS = ["key", "drum", "lamp", "barn", "leaf", "coin"]


def pair(model, asked, value, other):
    """Two prompts that differ in the value of the note that is asked for, up to the answer's
    word before it."""
    notes = [f"{WORDS[asked]} {value}", *(f"{w} 5{i}3" for i, w in enumerate(WORDS) if i != asked)]
    text = " ".join(f"Note: {note}." for note in notes[:3])
    question = f"\nWhat is the note for {WORDS[asked]}?"
    said = model.tokenizer.encode(f"The note for {WORDS[asked]}")
    return [
        [*inputs_of(model, [{"role": "user", "content": each + question}]), *said]
        for each in (text, text.replace(value, other))
    ]


def explained(model, prompts, sweep):
    clean, corrupt = prompts
    return g4.attribute(
        model,
        clean,
        sweep.target[0],
        against=sweep.against[0],
        position=len(clean),
        method="patching",
        corrupt=corrupt,
    )


@pytest.fixture(scope="module")
def model():
    return g4.load()


def test_the_heads_of_the_needle(model):
    """Over several prompts, the five largest heads are the same; each prompt's ranking agrees."""
    measured = predicted = 0
    for asked, value, other in ((0, "208", "935"), (2, "356", "741"), (3, "619", "254"),
                                (5, "174", "832")):  # fmt: skip
        prompts = pair(model, asked, value, other)
        sweep = g4.sweep(model, *prompts, over="heads", direction="corrupt")
        why = explained(model, prompts, sweep)
        assert sweep.target[1].strip() == value[0] and sweep.against[1].strip() == other[0]
        assert abs(sweep.base - why.total) < 0.2 and abs(sweep.source - why.base) < 0.2
        assert sweep.rank_correlation(why) > 0.7
        assert np.array_equal(sweep.predicted(why)[..., 0], -why.heads)
        measured, predicted = measured + sweep.effects, predicted + sweep.predicted(why)

    def top(values):
        return {int(i) for i in np.argsort(-np.abs(values), axis=None)[:5]}

    assert top(measured) == top(predicted)


def test_other_places(model):
    prompts = pair(model, 0, "208", "935")
    layers = (0, 4, 7)
    stream = g4.sweep(
        model, *prompts, layers=layers, positions=slice(-6, None), direction="corrupt"
    )
    why = explained(model, prompts, stream)
    predicted = stream.predicted(why)
    assert np.array_equal(predicted[1], -why.stream[5, -6:]) and np.isnan(predicted[2]).all()
    assert stream.rank_correlation(why) > 0.5
    experts = g4.sweep(model, *prompts, over="experts", layers=(3, 6))
    assert experts.direction == "restore" and -1 <= experts.rank_correlation(why) <= 1
    best = why.expert_ids[6, int(np.abs(why.experts[6]).argmax())]
    expected = why.experts[6][why.expert_ids[6] == best].sum()
    assert abs(experts.predicted(why)[1, best, 0] - expected) < 1e-6
    mlps = g4.sweep(model, *prompts, over="mlp", layers=layers, positions=[slice(0, None)])
    assert np.array_equal(mlps.predicted(why)[:, 0], why.mlp[list(layers)])


def test_what_cannot_be_compared(model):
    prompts = pair(model, 0, "208", "935")
    clean, corrupt = prompts
    sweep = g4.sweep(model, *prompts, over="heads", layers=6, indices=(0, 1))
    why = explained(model, prompts, sweep)
    assert abs(abs(sweep.rank_correlation(why)) - 1) < 1e-9
    with pytest.raises(AttributionError, match="by 'direct' predicts no patch"):
        sweep.rank_correlation(g4.attribute(model, clean))
    other = g4.attribute(model, clean, sweep.target[0], position=len(clean), method="patching",
                         corrupt=corrupt)  # fmt: skip
    with pytest.raises(AttributionError, match="explains another prompt or token"):
        sweep.rank_correlation(other)
    one = g4.sweep(model, *prompts, over="heads", layers=6, indices=0)
    with pytest.raises(AttributionError, match="1 places to compare"):
        one.rank_correlation(why)
    for options in (dict(over="attention"), dict(positions=[slice(0, 9)]), dict(window=2)):
        some = g4.sweep(model, *prompts, layers=2, **{"positions": [-1], **options})
        with pytest.raises(AttributionError, match="no shares of what this sweep"):
            some.rank_correlation(why)
