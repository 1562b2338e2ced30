"""What really removing sources does, measured as a run of its own measures it."""

import mlx.core as mx
import numpy as np
import pytest
from media_reference import picture

import gemma4_mlx as g4
from gemma4_mlx.attribution.data import Effect, Effects
from gemma4_mlx.errors import AttributionError
from gemma4_mlx.processing.image import load_image
from gemma4_mlx.processing.inputs import expand

pytestmark = pytest.mark.float32


#: Of each kind of part the tap at which a test of its own silences it.
TAPS = {
    "embedding": "embeddings",
    "head": "head_outputs",
    "expert": "expert_outputs",
    "mlp": "mlp_output",
    "per_layer": "per_layer_output",
}


def logit(model, ids, at, features=None):
    hidden = model.hidden(mx.array(ids)[None], features=features)
    return np.array(model.language_model.uncapped(hidden))[0, at - 1, 300]


def seen_in(model, ids):
    """Every tap's value, by name and layer."""
    seen = {}

    def keep(name, layer, value, geometry):
        seen[name, layer] = np.array(value)

    with model.observe(keep):
        model(mx.array(ids)[None])
    return seen


def by_hand(model, ids, at, part, positions=slice(None), theirs=None):
    """The logit where a part writes nothing at some positions, or what another run's does."""
    tap, seen = (TAPS[part.kind], part.layer), {}

    def change(name, layer, value, geometry):
        seen[name, layer] = np.array(value)
        if (name, layer) != tap:
            return None
        changed = seen[tap].copy()
        if part.kind == "head":
            changed[:, part.index, positions] = theirs[tap][:, part.index] if theirs else 0
        elif part.kind == "expert":
            mine = seen["expert_indices", layer] == part.index
            mine[:, : positions.start or 0] = False
            if positions.stop is not None:
                mine[:, positions.stop :] = False
            changed[mine] = 0
            if theirs:  # as a change of the first chosen expert's output
                other = theirs["expert_weights", layer] * (
                    theirs["expert_indices", layer] == part.index
                )
                other = (other[..., None] * theirs[tap]).sum(axis=2)
                changed[:, :, 0] += other / seen["expert_weights", layer][:, :, :1]
        else:
            changed[:, positions] = theirs[tap] if theirs else 0
        return mx.array(changed)

    with model.observe(change):
        return logit(model, ids, at)


def kinds_of(model):
    text = model.config.text
    kinds = ["embedding", "head", "mlp"]
    kinds += ["expert"] if text.enable_moe_block else []
    return kinds + (["per_layer"] if text.hidden_size_per_layer_input else [])


@pytest.mark.parametrize("method", ["direct", "gradient", "patching"])
@pytest.mark.parametrize("name", ["everything", "e2b"])
def test_every_kind_of_part(name, method, checkpoint):
    """Silenced at the one position or at all, or as in the corrupt run; another of its kind beside
    it, which there is not for the embedding."""
    model, ids = g4.load(checkpoint(name).folder), checkpoint(name).ids[0, :40].tolist()
    corrupt = [*ids[:12], 77, *ids[13:20], 78, *ids[21:]]
    options = {"corrupt": corrupt} if method == "patching" else {}
    why = g4.attribute(model, ids, 300, position=36, method=method, chunk=16, **options)
    theirs = seen_in(model, corrupt) if options else None
    where = slice(35, 36) if method == "direct" else slice(None)
    whole, large = logit(model, ids, 36), 0
    for kind in kinds_of(model):
        effects = why.check(2, kinds=(kind,))
        assert [e.kind for e in effects] == [kind] * (1 if kind == "embedding" else 4)
        assert [e.control for e in effects] == ([False] * 2 + [True] * 2)[: len(effects)]
        for e in effects:
            expected = whole - by_hand(model, ids, 36, e, where, theirs)
            assert abs(expected - e.measured) < 2e-3 + 1e-4 * abs(expected), e
            large += abs(expected) > 0.02
    assert large > 4 and not model.interventions


@pytest.mark.parametrize("name", ["everything", "e2b"])
def test_positions_are_hidden(name, checkpoint):
    """From all that read them; and as many at random of each kind that is asked about."""
    model, ids = g4.load(checkpoint(name).folder), checkpoint(name).ids[0, :40].tolist()
    why = g4.attribute(model, ids, 300, position=36, method="gradient", chunk=16)
    said = []
    effects = why.check(6, said.append, kinds=("position",))
    assert len({e.index for e in effects}) == 12 and max(e.index for e in effects) < 35
    for e in effects:
        assert why.positions[e.index] == np.float32(e.share)
        with model.intervene(g4.Knockout(None, keys=e.index)):
            assert abs(why.total - logit(model, ids, 36) - e.measured) < 1e-3
    mixed = why.check(9, said.append)
    asked, controls = ([e for e in mixed if e.control == c] for c in (False, True))
    kinds = sorted(e.kind for e in asked if e.kind != "embedding")
    assert kinds == sorted(e.kind for e in controls) and len(set(kinds)) > 1
    assert [e.share for e in asked] == [
        p.share for p in why.top(60) if p.kind != "position" or p.index < 35
    ][:9]
    assert said and not model.interventions


def test_corrupting_a_position(checkpoint):
    """The one position that differs, corrupted, is the whole difference, and one that does not
    differ is none. What a part writes may be the same in both runs, and then changes nothing."""
    model, ids = g4.load(checkpoint("everything").folder), checkpoint("everything").ids[0, :30]
    ids = ids.tolist()
    corrupt = [*ids[:12], 77, *ids[13:]]
    why = g4.attribute(model, ids, 300, method="patching", corrupt=corrupt, chunk=9)
    assert np.flatnonzero(why.positions).tolist() == [12]
    assert abs(why.base - logit(model, corrupt, 30)) < 1e-3
    at, *others = why.check(2, kinds=("position",))
    assert at.index == 12 and abs(at.measured - (why.total - why.base)) < 1e-3
    assert all(abs(e.measured) < 1e-4 for e in others)
    same = g4.attribute(model, ids, 300, method="patching", corrupt=ids, chunk=9)
    assert all(abs(e.measured) < 1e-4 for e in same.check(40))


def test_effects_print_as_a_table():
    effects = Effects(
        [
            Effect("head", 5, 2, 1.25, 0.5),
            Effect("per_layer", 0, None, -0.5, 2.0),
            Effect("position", None, 8, 0.125, 0.0, control=True),
        ]
    )
    assert repr(effects).splitlines() == [
        "without                        predicted  measured",
        "layer 5 head 2                     +1.25     +0.50",
        "layer 0 per-layer embedding        -0.50     +2.00",
        "position 8                         +0.12     +0.00  (drawn at random)",
    ]
    assert effects[0].measured == 0.5 and len(effects[1:]) == 2


def test_kinds_without_shares(checkpoint):
    model = g4.load(checkpoint("moe").folder)
    why = g4.attribute(model, [3, 4, 5], method="integrated", steps=1)
    with pytest.raises(AttributionError, match="'integrated' gives no kind 'mlp' a share; there"):
        why.check(kinds=("mlp",))
    with pytest.raises(AttributionError, match="no kind 'position' a share"):
        g4.attribute(model, [3, 4, 5]).check(kinds=("position",))


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
