"""Routing statistics against slow, plain definitions, and traces compared."""

import sys

import numpy as np
import pytest

from gemma4_mlx.errors import TraceError
from gemma4_mlx.tracing import RoutingData, Tokens, Trace, compare_routing

E, K, LAYERS = 8, 2, (1, 4)


def made(n=200, seed=0, favourites=None, layers=LAYERS, experts=E):
    """Random routing; ``favourites`` {expert: chance} in layer 4 only."""
    rng = np.random.default_rng(seed)
    p = np.ones((len(layers), experts))
    for expert, weight in (favourites or {}).items():
        p[-1, expert] = weight
    noise = rng.gumbel(size=(len(layers), n, experts)) + np.log(p)[:, None]
    chosen = np.argsort(-noise, axis=-1)[..., :K].astype(np.uint8)
    weights = np.sort(rng.random((len(layers), n, K)))[..., ::-1].astype(np.float32)
    ids = rng.integers(0, 12, n)
    kinds = (np.arange(n) % 10 == 0).astype(np.uint8)
    tokens = Tokens(
        ids, [f"t{i}" for i in ids], kinds, ["user"] * (n // 2) + ["model"] * (n - n // 2)
    )
    return RoutingData(layers, chosen, weights, experts, tokens)


def test_load_entropy_and_unused():
    routing = made(favourites={3: 1e-300})
    load = routing.load()
    for i, layer in enumerate(LAYERS):
        for e in range(E):
            share = np.mean([(e in chosen) for chosen in routing.experts[i].tolist()])
            assert abs(load[i, e] - share) < 1e-12
        assert abs(routing.load(layer).sum() - K) < 1e-12
    p = load / K
    bits = [-sum(x * np.log2(x) for x in row if x) for row in p]
    assert np.allclose(routing.entropy(), bits) and abs(routing.entropy(4) - bits[1]) < 1e-12
    assert routing.unused(4) == [3] and routing.unused(1) == []
    one = routing.load(4, tokens=slice(5, 6))
    assert sorted(np.flatnonzero(one)) == sorted(routing.experts[1, 5])
    by_kind = routing.share_by_kind(1)
    assert by_kind.keys() == {"text", "image"}
    image = routing.tokens.of_kind("image")
    assert np.allclose(by_kind["image"], routing.load(1, image))


def test_coactivation():
    routing = made()
    together = routing.coactivation(1)
    for a in range(E):
        for b in range(E):
            expected = sum(a in row and b in row for row in routing.experts[0].tolist())
            assert together[a, b] == expected


def test_paths_lead_to_the_next_traced_layer():
    routing = made()
    paths = routing.paths(1)
    for a in range(E):
        for b in range(E):
            pairs = zip(*routing.experts.tolist())
            assert paths[a, b] == sum(a in row and b in after for row, after in pairs)
    with pytest.raises(TraceError, match="behind layer 4"):
        routing.paths(4)


def test_top_tokens():
    routing = made()
    rows = routing.top_tokens(4, 2, top=5)
    assert [r["count"] for r in rows] == sorted((r["count"] for r in rows), reverse=True)
    for row in rows:
        of_text = routing.tokens.ids == row["id"]
        hit = (routing.experts[1] == 2).any(-1) & of_text
        assert row["count"] == hit.sum() and abs(row["share"] - hit.sum() / of_text.sum()) < 1e-12
        assert row["text"] == f"t{row['id']}"


def test_mutual_information():
    routing = made(4000)
    rng = np.random.default_rng(1)
    chance = routing.mutual_information(rng.integers(0, 2, 4000))
    assert chance.shape == (2,) and (chance < 0.004).all() and (chance >= 0).all()
    own = routing.experts[0, :, 0]  # the first choice decides half of the choices
    assert routing.mutual_information(own, layer=1) > 0.5
    routing.experts[0] = np.where(np.arange(4000)[:, None] % 2, [0, 1], [2, 3])
    assert abs(routing.mutual_information(np.arange(4000) % 2, layer=1) - 1) < 1e-12
    half = routing.mutual_information((np.arange(100) % 2).tolist(), layer=1, tokens=slice(0, 100))
    assert abs(half - 1) < 1e-12


def test_token_entropy():
    routing = made()
    p = routing.weights[0] / routing.weights[0].sum(-1, keepdims=True)
    assert np.allclose(routing.token_entropy(1), -(p * np.log2(p)).sum(-1))
    routing.probabilities = np.full((2, 200, E), 1 / E, np.float32)
    assert np.allclose(routing.token_entropy(1), 3)


@pytest.mark.parametrize("library", ["pandas", "polars", "arrow"])
def test_frames(library):
    pytest.importorskip({"arrow": "pyarrow"}.get(library, library))
    routing = made(50)
    frame = routing.to_dataframe(library)
    columns = frame.column_names if library == "arrow" else list(frame.columns)
    assert columns == ["layer", "token", "rank", "expert", "weight", "id", "text", "kind", "role"]
    get = {
        "pandas": lambda c: frame[c].to_numpy(),
        "polars": lambda c: frame[c].to_numpy(),
        "arrow": lambda c: np.array(frame[c].to_pylist()),
    }[library]
    assert len(get("layer")) == 2 * 50 * K
    row = (1 * 50 + 17) * K + 1  # layer 4, token 17, second choice
    assert get("layer")[row] == 4 and get("token")[row] == 17 and get("rank")[row] == 1
    assert get("expert")[row] == routing.experts[1, 17, 1]
    assert get("kind")[20] == "image" and get("role")[-1] == "model"


def test_missing_frame_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TraceError, match=r"arrow is missing.*pip install pyarrow$"):
        made(10).to_dataframe("arrow")


def test_unknown_frame_library():
    with pytest.raises(TraceError, match="'pandas', 'polars' and 'arrow'"):
        made(10).to_dataframe("excel")


def test_the_same_text_gives_no_false_alarm():
    """Over many pairs drawn alike, about 5% have a p-value of at most 0.05."""
    values = [
        compare_routing(made(160, seed=2 * s), made(160, seed=2 * s + 1), permutations=99).p_value
        for s in range(60)
    ]
    assert np.mean(np.array(values) <= 0.05) < 0.15
    assert 0.3 < np.mean(values) < 0.7


def test_a_difference_is_found_where_it_is():
    a, b = made(400, seed=1), made(400, seed=2, favourites={5: 4.0})
    result = compare_routing(a, b, permutations=199)
    assert result.p_value == 1 / 200
    best = result.significant(0.01)[0]
    assert (best["layer"], best["expert"]) == (4, 5) and best["difference"] < -0.2
    assert best["p_value"] == result.p_values.min() == 1 / 200, "the smallest possible, not 0"
    assert np.allclose(result.difference, a.load() - b.load())
    assert np.allclose(result.distance, np.abs(a.load() - b.load()).sum(1) / (2 * K))
    assert result.distance[1] > 3 * result.distance[0]
    assert (result.p_values[0] > 0.05).all()
    spans = compare_routing(a, a, slice(0, 200), slice(200, 400), permutations=99)
    assert spans.p_value > 0.05


def test_what_cannot_be_compared():
    for other, match, options in (
        (made(experts=16), "8 experts", {}),
        (made(layers=(1, 2)), "different models or layers", {}),
        (made(10), "at least two on each side", {}),
        ("x.g4trace", "without routing", {}),
        (made(), "test nothing", {"block": 0}),
        (made(), "test nothing", {"permutations": -1}),
    ):
        with pytest.raises(TraceError, match=match):
            compare_routing(made(), other, **options)
    ours = Trace(made().tokens, made(), model={"fingerprint": "a", "source": "A"})
    theirs = Trace(made().tokens, made(), model={"fingerprint": "b", "source": "B"})
    for compare in (ours.compare_routing, lambda other: compare_routing(ours, other)):
        with pytest.raises(TraceError, match="different models: 'A' and 'B'"):
            compare(theirs)
        with pytest.raises(TraceError, match="without routing"):
            compare(Trace(made().tokens))
    assert ours.compare_routing(ours, permutations=9).p_value == 1


def test_what_does_not_exist():
    routing = made()
    for match, call in (
        ("layer 0 has no routing in this trace; traced: 1, 4", lambda: routing.load(0)),
        ("experts 0 to 7", lambda: routing.top_tokens(1, 8)),
        ("no tokens", lambda: routing.load(1, tokens=[])),
        ("mask of 3", lambda: routing.load(1, tokens=np.ones(3, bool))),
        ("chosen of a trace of 200", lambda: routing.load(1, tokens=[200])),
        ("3 labels for 200 tokens", lambda: routing.mutual_information([1, 2, 3])),
    ):
        with pytest.raises(TraceError, match=match):
            call()
