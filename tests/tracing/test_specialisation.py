"""Groups of tokens and what experts are for, against plain definitions."""

import numpy as np
import pytest

import gemma4_mlx as g4  # before mlx.core: it loads OpenBLAS
from gemma4_mlx.errors import TraceError
from gemma4_mlx.tracing import RoutingData, Tokens, open_trace
from gemma4_mlx.tracing.data.groups import GROUPINGS, Groups, in_code, token_groups
from gemma4_mlx.tracing.data.specialisation import LEAST_EXPECTED
from gemma4_mlx.tracing.data.tokens import KINDS

E, K = 12, 3


def tokens_of(*pieces, roles=None, kinds=None) -> Tokens:
    return Tokens(range(len(pieces)), pieces, kinds, roles)


def random_routing(seed: int, n: int = 300) -> RoutingData:
    rng = np.random.default_rng(seed)
    words = [" the", " quick", "er", " 12", ",", "\n", " слово", "語", "かな", "```", "é", " 🚀"]
    tokens = tokens_of(
        *(words[i] for i in rng.integers(0, len(words), n)),
        roles=[["user", "model", ""][i] for i in np.sort(rng.integers(0, 3, n))],
        kinds=np.where(rng.random(n) < 0.1, KINDS.index("image"), 0),
    )
    noise = rng.gumbel(size=(2, n, E)) + np.linspace(0, 3, E)
    chosen = np.argsort(-noise, axis=-1)[..., :K].astype(np.uint8)
    weights = rng.random((2, n, K)).astype(np.float32)
    return RoutingData((3, 7), chosen, weights, E, tokens)


@pytest.mark.parametrize("by", GROUPINGS)
@pytest.mark.parametrize("seed", range(3))
def test_lifts_have_mean_one_and_loads_sum_to_k(by, seed):
    routing = random_routing(seed)
    found = routing.specialisation(by)
    share = found.groups.tokens / found.groups.tokens.sum()
    assert found.groups.tokens.sum() == routing.n
    np.testing.assert_allclose(found.load.sum(axis=-1), K)
    np.testing.assert_allclose(found.overall, routing.load())
    mean = (share[:, None] * found.lift).sum(axis=1)
    np.testing.assert_allclose(mean[found.overall > 0], 1)
    for g, name in enumerate(found.groups.names):
        mask = found.groups.codes == g
        np.testing.assert_allclose(found.load[:, g], routing.load(tokens=mask))
        rows = found.experts(name, above=1.2)
        assert [r["lift"] for r in rows] == sorted((r["lift"] for r in rows), reverse=True)
        for row in rows:
            mine = routing.load(row["layer"], mask)[row["expert"]]
            assert row["lift"] == pytest.approx(mine / row["load"]) and row["lift"] >= 1.2
            assert row["load"] * mask.sum() >= LEAST_EXPECTED


def test_scripts_are_read_off_the_letters():
    tokens = tokens_of(" The", "語", "かな", " 42", "жук", "가", "ﬁ", "ア", "<bos>", " ,", "Ａ")
    tokens.kinds[8] = KINDS.index("special")
    groups = token_groups(tokens, "script")
    named = [groups.names[c] for c in groups.codes]
    assert named == [
        *("Latin", "Han", "Kana", "no letters", "Cyrillic", "Hangul", "Latin", "Kana"),
        *("control tokens", "no letters", "Latin"),
    ]


def test_code_is_what_stands_between_fences_of_one_part():
    pieces = [
        "Look",
        ":\n",
        "```",
        "py\n",
        "x",
        " = ",
        "1\n",
        "```",
        "\n",
        "done ``` no",
        "\n```\n",
        "y",
    ]
    tokens = tokens_of(*pieces, "and", roles=["user"] * len(pieces) + ["model"])
    inside = "".join("x" if c else "." for c in in_code(tokens))
    assert inside == "..xxxxxxx..x."
    assert not in_code(tokens_of("a ``` b ``` c")).any()


def test_words_and_their_rests():
    tokens = tokens_of(" walk", "ing", " 3", "7", ".", "\n", "Next", "語", "語", " +")
    named = [token_groups(tokens, "kind").names[c] for c in token_groups(tokens, "kind").codes]
    assert named == [
        *("word", "rest of a word", "number", "number", "punctuation", "blank", "word"),
        *("rest of a word", "word", "symbol"),
    ]


def test_groups_of_ones_own():
    routing = random_routing(4)
    codes = (np.arange(routing.n) % 2).astype(np.uint8)
    halves = Groups("half", ("even", "odd"), codes, np.bincount(codes))
    found = routing.specialisation(halves)
    assert found.groups is halves and found.counts.shape == (2, 2, E)
    with pytest.raises(TraceError, match="no 'Latin' here"):
        found.experts("Latin")
    with pytest.raises(TraceError, match="grouped by script"):
        routing.specialisation("language")


def test_gate_shares_sum_to_one_and_weights_are_share_times_scale(tmp_path):
    import mlx.core as mx

    model = g4.load()
    scales = np.linspace(0.5, 1.5, model.config.text.num_experts)
    router = model.layers[1].router
    learned, router.per_expert_scale = router.per_expert_scale, mx.array(scales)
    trace = g4.trace(model, "Count from one to nine, then stop.", attention=None)
    router.per_expert_scale = learned
    trace = open_trace(trace.save(tmp_path / "scaled.g4trace"))
    routing = trace.routing
    np.testing.assert_allclose(routing.scale[1], scales, rtol=1e-6)
    for i, layer in enumerate(routing.layers):
        gate = routing.gate(layer)
        np.testing.assert_allclose(gate.sum(axis=1), 1, rtol=1e-5)
        again = gate * routing.scale[i][routing.experts[i]]
        np.testing.assert_allclose(again, routing.weights[i], rtol=2e-5, atol=1e-7)
    assert abs(routing.weights[1].sum(axis=1) - 1).max() > 0.05
    np.testing.assert_array_equal(routing.gate(1, slice(2, 5)), routing.gate(1)[2:5])
