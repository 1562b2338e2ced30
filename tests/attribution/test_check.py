"""What really removing sources does, measured as a run of its own measures it."""

import mlx.core as mx
import numpy as np
import pytest
from media_reference import picture

import gemma4_mlx as g4
from gemma4_mlx.errors import AttributionError
from gemma4_mlx.processing.image import load_image
from gemma4_mlx.processing.inputs import expand

pytestmark = pytest.mark.float32


def logit(model, ids, at, features=None):
    hidden = model.hidden(mx.array(ids)[None], features=features)
    return np.array(model.language_model.uncapped(hidden))[0, at - 1, 300]


@pytest.mark.parametrize("name", ["everything", "e2b"])
def test_after_a_gradient(name, checkpoint):
    """Heads and experts at all positions, and positions by hiding them; as many at random of each
    kind."""
    model, ids = g4.load(checkpoint(name).folder), checkpoint(name).ids[0, :40].tolist()
    why = g4.attribute(model, ids, 300, position=36, method="gradient", chunk=16)
    whole, said = logit(model, ids, 36), []
    for kinds in ((), ("position",)):
        effects = why.check(6, said.append, kinds=kinds)
        asked, controls = ([e for e in effects if e.control == c] for c in (False, True))
        assert sorted(e.kind for e in asked) == sorted(e.kind for e in controls)
        there = {(p.kind, p.layer, p.index): p.share for p in why.sources}
        assert len({(e.kind, e.layer, e.index) for e in effects}) == 12
        for e in effects:
            assert there[e.kind, e.layer, e.index] == e.share
            change = {
                "head": lambda e: g4.ScaleHeads(e.layer, e.index),
                "expert": lambda e: g4.Ablate(e.layer, e.index),
                "position": lambda e: g4.Knockout(None, keys=e.index),
            }[e.kind](e)
            with model.intervene(change):
                assert abs(whole - logit(model, ids, 36) - e.measured) < 1e-3
        if kinds:
            assert all(e.kind == "position" and e.index < 35 for e in effects)
    assert said and not model.interventions


def test_after_patching(checkpoint):
    """A head outputs what it did in the corrupt run. The one position that differs, corrupted, is
    the whole difference, and one that does not differ is none."""
    model, ids = g4.load(checkpoint("everything").folder), checkpoint("everything").ids[0, :30]
    ids = ids.tolist()
    corrupt = [*ids[:12], 77, *ids[13:]]
    why = g4.attribute(model, ids, 300, method="patching", corrupt=corrupt, chunk=9)
    assert np.flatnonzero(why.positions).tolist() == [12]
    assert abs(why.base - logit(model, corrupt, 30)) < 1e-3
    at, *others = why.check(2, kinds=("position",))
    assert at.index == 12 and abs(at.measured - (why.total - why.base)) < 1e-3
    assert all(abs(e.measured) < 1e-4 for e in others)
    plan = g4.ActivationPlan(("head_outputs",))
    theirs = g4.trace(model, corrupt, activations=plan, attention=None, routing=None)
    whole = logit(model, ids, 30)
    for e in why.check(3, kinds=("head",)):
        patch = g4.Patch(e.layer, theirs, tap="head_outputs", heads=(e.index,))
        with model.intervene(patch):
            assert abs(whole - logit(model, ids, 30) - e.measured) < 1e-3
    with pytest.raises(AttributionError, match="no expert can be removed after 'patching'"):
        why.check(kinds=("expert",))


@pytest.mark.parametrize("name", ["dense31", "everything"])
def test_a_picture_s_patches(name, checkpoint):
    """Hidden from a picture whose patches see each other, and replaced by another picture's."""
    model = g4.load(checkpoint(name).folder)
    images = [load_image(picture(200, 480, seed), model, budget=70) for seed in (0, 1)]
    tokens = [5, 6, 7, model.config.image_token_id, 8, 9, 10]
    inputs, other = (expand(tokens, [image], model.config) for image in images)
    features = [model.encode_image(mx.array(i.patches), i.positions) for i in images]
    span, n = inputs.media[0], len(inputs)
    why = g4.attribute(model, inputs, 300, method="integrated", steps=2)
    whole = logit(model, inputs.tokens, n, features[0])
    for e in why.check(3):
        with model.intervene(g4.Knockout(None, keys=e.index)):
            hidden = logit(model, inputs.tokens, n, features[0])
        assert abs(whole - hidden - e.measured) < 1e-3
    why = g4.attribute(model, inputs, 300, method="patching", corrupt=other)
    assert np.flatnonzero(why.positions).tolist() == list(range(span.start, span.stop))
    patches = why.check(2, kinds=("position",))
    for e in patches:
        mixed = mx.array(features[0])
        if span.start <= e.index < span.stop:
            at = e.index - span.start
            mixed[at] = features[1][at]
        replaced = logit(model, inputs.tokens, n, mixed)
        assert abs(whole - replaced - e.measured) < 1e-3
    assert any(e.measured != 0 for e in patches)
