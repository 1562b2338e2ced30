"""trace(): prompts of every kind, plans that fit and plans that do not, the whole way to a file."""

import json

import mlx.core as mx
import numpy as np
import pytest

import gemma4_mlx as g4
from gemma4_mlx.errors import ContextError, TraceError
from gemma4_mlx.processing.inputs import ModelInputs
from gemma4_mlx.tracing import ActivationPlan, AttentionPlan, LensPlan, RoutingPlan, TracePlan


@pytest.fixture(scope="module")
def model():
    return g4.load()


@pytest.fixture(scope="module")
def random_model(checkpoint):
    return g4.load(checkpoint("everything").folder)


def test_text_messages_ids_and_inputs(model):
    text = g4.trace(model, "the drum code", attention=None)
    assert text.tokens.text == "<bos>the drum code" and text.tokens[0].kind == "special"
    assert text.attention is None and text.routing.experts.shape[1] == len(text)
    ids = g4.trace(model, text.tokens.ids.tolist(), attention=None)
    assert np.array_equal(ids.routing.experts, text.routing.experts)
    inputs = g4.trace(model, ModelInputs.of_tokens(text.tokens.ids.tolist()), attention=None)
    assert np.array_equal(inputs.routing.weights, text.routing.weights)
    chat = g4.trace(model, [{"role": "user", "content": "Hi <|turn>system"}])
    roles = chat.tokens.roles
    assert roles[1] == "user" and roles[-1] == "model" and "system" not in roles
    assert chat.model["num_experts"] == model.config.text.num_experts
    assert json.loads(json.dumps(chat.model)) == chat.model


def test_chunks_make_no_difference(random_model):
    ids = np.random.default_rng(0).integers(3, 490, 90).tolist()
    plan = TracePlan(RoutingPlan(), AttentionPlan(bins=9, retain="all"), LensPlan(top=2))
    whole = g4.trace(random_model, ids, plan=plan)
    parts = g4.trace(random_model, ids, plan=plan, chunk=17)
    assert len(parts.timings.chunks) == 6 and parts.timings.prefill > 0
    assert np.array_equal(whole.routing.experts, parts.routing.experts)
    assert np.abs(whole.lens.probabilities - parts.lens.probabilities).max() < 1e-5
    for layer in whole.attention.layers:
        for statistic in ("mass", "max"):
            a = whole.attention.overview(layer, 1, statistic)
            assert np.abs(a - parts.attention.overview(layer, 1, statistic)).max() < 1e-5
    seen = []
    g4.trace(random_model, ids, plan=plan, chunk=30, progress=lambda p: seen.append(p.done))
    assert seen == [30, 60, 90]


def test_soft_tokens_know_their_place(random_model, checkpoint):
    from gemma4_mlx.processing.image import load_image
    from gemma4_mlx.processing.inputs import expand

    config = random_model.config
    pixels = np.random.default_rng(1).integers(0, 255, (192, 288, 3), dtype=np.uint8)
    image = load_image(pixels, random_model, budget=70)
    ids = [5, 6, 7, config.image_token_id, 8, 9]
    inputs = expand(ids, [image], config)
    trace = g4.trace(random_model, inputs)
    where = np.flatnonzero(trace.tokens.of_kind("image"))
    assert len(where) == image.n_soft
    first, last = trace.tokens[where[0]], trace.tokens[where[-1]]
    assert first.media == 0 and first.box[:2] == (0, 0) and first.span == first.box
    assert last.box[2:] == (288, 192) and first.time is None and trace.tokens[0].box is None
    total = trace.attention.summary("image", 0, 0)
    assert 0 < total < 1 and "audio" not in trace.attention.layer(0).statistics


def test_a_plan_that_does_not_fit_is_refused_with_one_that_does(random_model):
    ids = list(range(3, 203))
    big = TracePlan(RoutingPlan(probabilities=True), AttentionPlan(retain="all"))
    cost = big.cost(random_model, 200)
    with pytest.raises(TraceError) as refused:
        g4.trace(random_model, ids, plan=big, memory=cost.memory - 1)
    message = str(refused.value)
    assert (
        "a trace of 200 tokens" in message and "would: " in message and "storage='disk'" in message
    )
    smaller = big.fitting(random_model, 200, cost.memory - 1, disk=1 << 40)
    assert smaller.cost(random_model, 200).memory < cost.memory
    assert g4.trace(random_model, ids, plan=smaller, memory=cost.memory - 1).attention.retained
    with pytest.raises(TraceError, match=r"even .* would not"):
        g4.trace(random_model, ids, plan=big, memory=1000)


def test_costs_are_what_is_then_used(random_model, checkpoint):
    dense = g4.load(checkpoint("e2b").folder)
    for model in (random_model, dense):
        experts = model.config.text.enable_moe_block
        plan = TracePlan(
            RoutingPlan(probabilities=True) if experts else None,
            AttentionPlan(bins=25, retain="all"),
            LensPlan(top=3),
            ActivationPlan(("layer_output", "head_outputs"), layers=(0, 2)),
        )
        cost = plan.cost(model, 100)
        trace = g4.trace(model, list(range(3, 103)), plan=plan)
        arrays, _ = trace.attention.to_arrays()
        size = dict.fromkeys(cost.parts, 0)
        for name, array in arrays.items():
            kind = name.split(".")[1]
            part = {
                "normaliser": "normalisers",
                "mass": "overviews",
                "peak": "overviews",
                "columns": "column sums",
                "offset_mass": "offsets",
                "statistics": "summaries",
                "queries": "queries and keys",
                "keys": "queries and keys",
            }.get(kind, "links")
            size[part] += array.nbytes
        exact = ("normalisers", "column sums", "links", "queries and keys", "overviews", "offsets")
        for name in exact:
            assert size[name] == cost.parts[name], name
        assert size["summaries"] <= cost.parts["summaries"]
        kept = trace.activations.values
        outputs = [kept["layer_output"], *kept["head_outputs"]]
        assert sum(each.nbytes for each in outputs) == cost.parts["activations"]
        lens = sum(a.nbytes for a in trace.lens.to_arrays()[0].values())
        assert lens <= cost.parts["logit lens"]
        if experts:
            r = trace.routing
            assert r.experts.nbytes + r.weights.nbytes == cost.parts["routing"]
            assert r.probabilities.nbytes == cost.parts["router probabilities"]
        assert cost.flops > 0 and "queries and keys" in str(cost)


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_retained_vectors_in_memory_or_mapped(storage, random_model, tmp_path):
    plan = AttentionPlan(retain="all", storage=storage, folder=str(tmp_path))
    trace = g4.trace(random_model, list(range(3, 103)), attention=plan, routing=None)
    queries = trace.attention.layer(3).queries
    assert isinstance(queries, np.memmap) == (storage == "disk")
    assert list(tmp_path.iterdir()) == []  # the file has no name any more
    assert abs(trace.attention.row(3, 2, 50).sum() - 1) < 1e-5
    assert (trace.plan.count("disk") == 1) == (storage == "disk")


def test_under_interventions(random_model):
    with random_model.intervene(g4.ScaleHeads(1, [0])):
        trace = g4.trace(random_model, [5, 6, 7], attention=None)
    assert trace.interventions == ("ScaleHeads(layer=1, heads=(0,), factor=0.0, tokens=None)",)
    assert "under ScaleHeads" in repr(trace)
    assert g4.trace(random_model, [5, 6, 7], attention=None).interventions == ()


def test_heads_as_a_table(random_model):
    pytest.importorskip("pandas")
    attention = g4.trace(random_model, list(range(3, 43)), routing=None).attention
    frame = attention.to_dataframe()
    assert list(frame.columns[:3]) == ["layer", "head", "type"] and len(frame) == 8 * 4
    row = frame[(frame.layer == 2) & (frame["head"] == 3)].iloc[0]
    assert row["type"] == "full_attention"
    assert row["entropy"] == attention.summary("entropy", 2, 3)


def test_bad_requests(random_model, checkpoint):
    dense = g4.load(checkpoint("e2b").folder)
    assert g4.trace(dense, [5, 6]).routing is None  # nothing to record there, by default

    def trace(prompt=(5, 6), model=random_model, **plan):
        return lambda: g4.trace(model, prompt, **plan)

    nowhere = AttentionPlan(storage="disk", folder="/nowhere/at/all")
    both = {"plan": TracePlan(RoutingPlan()), "routing": None}
    for error, match, call in (
        (TraceError, "str is no model", trace(model="google/gemma-4-E2B-it")),
        (TraceError, "no experts", trace(model=dense, routing=RoutingPlan())),
        (TraceError, "layers 0 to 7", trace(routing=RoutingPlan((8,)))),
        (TraceError, "heads 0 to 3", trace(attention=AttentionPlan(heads=(4,)))),
        (TraceError, "of nothing", trace(attention=None, routing=None)),
        (TraceError, "not both", trace(**both)),
        (TraceError, "reads nothing", trace(chunk=0)),
        (ContextError, "empty", trace([])),
        (ContextError, "context is 4,096", trace([5] * 4097)),
        (TraceError, "tokenizer", trace("text for a model without one")),
        (TraceError, "the prompt has positions 0 to 1", trace(lens=LensPlan(positions=7))),
        (TraceError, "attention=True: give AttentionPlan", trace(attention=True)),
        (TraceError, "routing=False: .* None to leave it out", trace(routing=False)),
        (TraceError, "give a TracePlan", trace(plan=AttentionPlan())),
        (TraceError, "layers='all': give an index", lambda: LensPlan(layers="all")),
        (TraceError, "retain=1.5: give an index", lambda: AttentionPlan(retain=1.5)),
        (TraceError, "cannot hold", trace(attention=nowhere)),
        (TraceError, "retain 'most'", lambda: AttentionPlan(retain="most")),
        (TraceError, "storage 'cloud'; there are 'auto'", lambda: AttentionPlan(storage="cloud")),
        (TraceError, "impossible", lambda: AttentionPlan(bins=0)),
        (TraceError, "can be kept", lambda: ActivationPlan(taps=("logits",))),
        (TraceError, "keeps nothing", lambda: LensPlan(top=0)),
    ):
        with pytest.raises(error, match=match):
            call()


@pytest.mark.parametrize("plan", [RoutingPlan(), AttentionPlan(), LensPlan(), ActivationPlan()])
@pytest.mark.parametrize("n", [0, -5])
def test_no_tokens_have_no_cost(plan, n, random_model):
    with pytest.raises(TraceError, match=f"{n} tokens has nothing to trace"):
        plan.cost(random_model, n)


def test_numpys_indices_are_stored_as_pythons():
    plan = AttentionPlan(layers=np.arange(2), heads=np.int64(1), retain=np.array([1]))
    assert plan == AttentionPlan(layers=(0, 1), heads=1, retain=1)
    assert str(TracePlan(lens=LensPlan(np.int64(3)))) == "TracePlan(LensPlan(layers=(3,)))"


def test_spans_and_places_that_do_not_exist(random_model):
    plan = ActivationPlan(layers=(1,))
    trace = g4.trace(random_model, list(range(3, 43)), routing=None, activations=plan)
    attention = trace.attention
    for match, call in (
        ("layer 9 has no attention .* 0 to 7", lambda: attention.overview(9, 0)),
        ("no traced head 7; traced: 0 to 3 of 4", lambda: attention.row(0, 7, 0)),
        ("query 40 does not exist: the trace has 40", lambda: attention.row(0, 0, 40)),
        ("takes one query", lambda: attention.row(0, 0, slice(2, 5))),
        ("no span", lambda: attention.tile(0, 0, slice(10, 10))),
        ("no span", lambda: attention.tile(0, 0, slice(0, 41))),
        ("no span", lambda: attention.tile(0, 0, slice(0, 20, 2))),
        ("no span", lambda: attention.find((5, 3), (0, 1))),
        ("statistic 'median'", lambda: attention.overview(0, 0, "median")),
        ("no span; give start:stop", lambda: attention.find("Paris", (0, 1))),
        ("no span; give start:stop", lambda: attention.find([slice(1, 2)], (0, 1))),
        ("no span; give start:stop", lambda: attention.find([], (0, 1))),
        ("no span; give start:stop", lambda: attention.tile(0, 0, None)),
        ("no span; give start:stop", lambda: attention.row(0, 0, 2.5)),
        ("no cells", lambda: attention.tile(0, 0, shape=(0, 5))),
        ("no cells", lambda: attention.tile(0, 0, shape="big")),
        ("no cells", lambda: attention.overview_tile(0, 0, (0, 0))),
        ("no cells", lambda: attention.overview_tile(0, 0, (-4, -4))),
        ("no tokens 99 among the 40", lambda: trace.activations.at("layer_output", 1, 99)),
        ("no summary 'charm'", lambda: attention.summary("charm", 0, 0)),
    ):
        with pytest.raises(TraceError, match=match):
            call()
    assert np.array_equal(attention.row(0, 0, -1), attention.row(0, 0, 39))
    assert attention.tile(0, 0, shape=7).shape == (7, 7)


@pytest.mark.parametrize("n", [4096, pytest.param(32768, marks=pytest.mark.slow)])
def test_a_long_context(model, n):
    """Rows of the teaching model's full layers against the definition, far into the context."""
    ids = np.random.default_rng(0).integers(200, 1900, n).tolist()
    plan = AttentionPlan(retain=(2, 0), layers=(0, 2))
    trace = g4.trace(model, ids, attention=plan, routing=RoutingPlan())
    attention = trace.attention
    assert attention.width == n // 256 and attention.edges[-1] == n
    for layer in (0, 2):
        window = attention.layer(layer).window or n
        for head in (0, 3):
            q, k = attention.queries(layer, head), attention.keys(layer, head)
            for query in (n - 1, n // 2 + 1):
                low = max(0, query - window + 1)
                scores = k[low : query + 1].astype(np.float64) @ q[query]
                exact = np.exp(scores - scores.max())
                exact /= exact.sum()
                row = attention.row(layer, head, query)
                assert np.abs(row[low : query + 1] - exact).max() < 1e-5
                assert row[:low].sum() == row[query + 1 :].sum() == 0
            mass = attention.overview(layer, head)
            assert np.abs(mass.sum(-1) - 1).max() < 1e-4
            a = n - 256
            tile = attention.tile(layer, head, slice(a, n), slice(a, n), statistic="max")
            assert not tile.pooled
            dense_peak = attention.overview(layer, head, "max")[-1, -1]
            w = attention.width
            assert abs(tile.values[-w:, -w:].max() - dense_peak) < 1e-5
    assert trace.routing.experts.shape[1] == n
    assert mx.get_active_memory() < 2 * 2**30
