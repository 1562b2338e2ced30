"""A model of two real processes on loopback, led from here, answers as one process does."""

import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import gemma4_mlx as g4
from gemma4_mlx.errors import CheckpointError, ClusterError, ConfigError, MediaError

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
KINDS = ["e2b", "moe", "dense31", "everything"]
GREEDY = dict(max_tokens=24, temperature=0.0)
STRATEGIES = pytest.mark.parametrize("strategy", ["tensor", "pipeline"])
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def two():
    """A cluster of two processes on this machine."""
    with g4.cluster(2, env=["OPENBLAS_NUM_THREADS=1"]) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def pair(two, checkpoint):
    """``pair(kind)``: the model on both, and on one, of a checkpoint or the teaching model."""
    models = {}

    def get(kind, strategy="tensor", **how):
        key = kind, strategy, *how.items()
        if key not in models:
            models.clear()  # one at a time
            folder = None if kind == "teaching" else checkpoint(kind).folder
            both = g4.load(folder, cluster=two, strategy=strategy, **how), g4.load(folder, **how)
            models[key] = both
        return models[key]

    return get


def prompt(n, seed=0):
    return np.random.default_rng(seed).integers(3, 300, n).tolist()


def off(a, b):
    """How far logits are apart, of the largest."""
    return float(abs(a - b).max() / abs(b).max())


def text(model, tokens, **how):
    events = g4.stream(model, tokens, options=GREEDY | how.pop("options", {}), **how)
    return [event.id for event in events if hasattr(event, "id")]


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_text_is_the_same_past_the_window(kind, pair):
    both, tokens = pair(kind), prompt(30)  # the window is 16
    answers = [text(model, tokens) for model in both]
    assert answers[0] == answers[1] and len(answers[0]) == GREEDY["max_tokens"]


@STRATEGIES
def test_caches_rewind_fork_and_are_reused(strategy, pair):
    both, tokens = pair("everything", strategy), prompt(90)
    answers = []
    for model in both:
        cache = g4.PromptCache(model, snapshot_every=16)
        found = [text(model, tokens, cache=cache)]
        fork = cache.fork()
        found.append(cache.rewind(40))  # farther back than the window: from a snapshot
        found.append(text(model, tokens[:40] + prompt(9, 1), cache=cache))
        found.append(text(model, tokens + found[0][:5] + prompt(4, 2), cache=fork))
        events = list(g4.stream(model, tokens + prompt(6, 3), options=GREEDY, cache=fork))
        found.append(events[-1].reused_tokens)
        shared = g4.PromptCache.sharing(model, tokens)
        found += [len(shared), text(model, tokens, cache=shared)]
        answers.append(found)
    assert answers[0] == answers[1]
    assert answers[0][1] == 40 and answers[0][-3] >= 80 and answers[0][-2] >= 80


@STRATEGIES
def test_quantized_keys_and_batches(strategy, pair):
    both, tokens = pair("everything", strategy), prompt(40)
    for how in (dict(kv_bits=8), dict(kv_bits=4), dict(left_padding=[0, 7])):
        batch = [tokens, [0] * 7 + tokens[7:]] if "left_padding" in how else [tokens]
        logits = []
        for model in both:
            cache = model.make_cache(**how)
            model(mx.array(batch)[:, :30], cache)
            cache[0].trim(0)
            logits.append(model(mx.array(batch)[:, 30:], cache))
        assert off(*logits) < 1e-5, how
    caches = [g4.PromptCache(model, kv_bits=8) for model in both]
    answers = [text(model, tokens, cache=cache) for model, cache in zip(both, caches)]
    assert [cache.rewind(20) for cache in caches] == [20, 20]
    answers += [text(model, tokens[:25], cache=cache) for model, cache in zip(both, caches)]
    assert answers[0] == answers[1] and answers[2] == answers[3]


def test_sampling_stops_and_packed_weights(pair):
    both = pair("moe", bits=4)
    for options in (dict(temperature=1.0, seed=5, top_k=20), dict(stop=[str(prompt(30)[3])])):
        given = dict(options={k: v for k, v in options.items() if k != "stop"})
        answers = [text(model, prompt(30), **given) for model in both]
        assert answers[0] == answers[1]


@STRATEGIES
def test_pictures_and_sounds(strategy, pair, checkpoint):
    both, arrays = pair("mm", strategy), checkpoint("mm")
    for ids, features in (
        ("img_ids", "img_features"),
        ("aud_ids", "aud_features"),
    ):
        tokens = mx.array(getattr(arrays, ids).astype(np.int32))
        soft = mx.array(getattr(arrays, features))
        where = np.isin(np.array(tokens), both[0].config.soft_token_ids).sum()
        soft = soft.reshape(-1, soft.shape[-1])[:where]
        logits = [model(tokens, features=soft) for model in both]
        assert off(*logits) < 1e-5
    assert mx.array_equal(
        *(
            model.encode_image(
                mx.array(arrays.long_pixels[0]), mx.array(arrays.long_positions[0].astype(np.int32))
            )
            for model in both
        )
    )
    with pytest.raises(MediaError, match="2 soft tokens were given"):
        both[0](tokens, features=soft[:2])
    assert off(*(model(tokens) for model in both)) < 1e-5  # and all goes on


@STRATEGIES
def test_a_conversation(strategy, pair):
    told = []
    for model in pair("teaching", strategy):
        chat = g4.Chat(model)
        told.append(
            [
                chat.send("Count from 3 to 6.", temperature=0.0).text,
                chat.send("What is 2 plus 3?", temperature=1.0, seed=4, max_tokens=9).text,
                chat.send("Count from 5 to 9.", stop=["seven"], temperature=0.0).text,
            ]
        )
    assert told[0] == told[1] and told[0][0]


@STRATEGIES
def test_a_trace_is_that_of_one_machine(strategy, pair):
    both, text = pair("teaching", strategy), "Count from 3 to 6."
    traces = [g4.trace(m, text, attention=g4.AttentionPlan(retain="full")) for m in both]
    assert np.array_equal(traces[0].routing.experts, traces[1].routing.experts)
    assert np.allclose(traces[0].routing.weights, traces[1].routing.weights, atol=1e-5)
    for layer in range(len(both[1].layers)):
        for head in range(both[1].config.text.num_attention_heads):
            rows = [trace.attention.row(layer, head, -1) for trace in traces]
            assert np.abs(rows[0] - rows[1]).max() < 1e-5
            maps = [trace.attention.overview(layer=layer, head=head) for trace in traces]
            assert np.abs(maps[0] - maps[1]).max() < 1e-5
    later = [g4.trace(m, text, attention=g4.AttentionPlan(retain="none")) for m in both]
    rows = [trace.attention.row(2, 1, -1) for trace in later]  # the prompt is read again
    assert np.abs(rows[0] - rows[1]).max() < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        [g4.Ablate(1, [0, 1, 2]), g4.Ablate(6, [0, 1, 2])],
        [g4.Force(1, [3, 4]), g4.ScaleHeads(2, [0], 0.0)],
        [g4.Knockout(None, heads=[1, 3], queries=[20, 30], keys=[5, 2])],
        [g4.Knockout(None, queries=[20, 21], keys=[1, 2]), g4.Steer(3, np.ones(128))],
    ],
)
@STRATEGIES
def test_interventions_change_what_all_compute(strategy, changes, pair):
    both, tokens, logits = pair("teaching", strategy), mx.arange(5, 40)[None], []
    for model in both:
        with model.intervene(*changes):
            logits.append(model(tokens))
    assert off(*logits) < 1e-5
    assert off(logits[0], both[1](tokens)) > 1e-6
    assert off(*(model(tokens) for model in both)) < 1e-5


def test_an_observers_error_comes_when_all_are_done(pair):
    both = pair("teaching")

    def fails(name, layer, value, geometry):
        if layer == 1:
            raise KeyError(name)

    with both[0].observe(fails), pytest.raises(KeyError, match="layer_input"):
        both[0]([[5, 6, 7]])
    assert off(*(model([[5, 6, 7]]) for model in both)) < 1e-5


@STRATEGIES
def test_a_lens_is_refused_when_all_are_done(strategy, pair):
    both = pair("teaching", strategy)
    if strategy == "tensor":  # of stages rank 0 has the whole head
        with pytest.raises(ClusterError, match="nothing within its own run"):
            g4.trace(both[0], "Count from 3 to 6.", lens=g4.LensPlan())
    else:
        lenses = [g4.trace(m, "Count from 3 to 6.", lens=g4.LensPlan()).lens for m in both]
        assert np.array_equal(lenses[0].ids[..., 0], lenses[1].ids[..., 0])
    assert off(*(model([[5, 6, 7]]) for model in both)) < 1e-5


def test_what_needs_whole_layers_says_so(pair):
    model, one = pair("teaching")
    with pytest.raises(ClusterError, match="whole layers in one memory"):
        model.layers[0].self_attn.o_proj(mx.zeros((1, 1, 64)))
    with pytest.raises(ClusterError, match="neither be compiled nor differentiated"):
        mx.grad(lambda x: model.language_model.head(x).sum())(mx.zeros((1, 1, 128)))
    with pytest.raises(ClusterError, match="a cache of its own"):
        model([[5]], one.make_cache())
    assert off(*(m([[5, 6, 7]]) for m in (model, one))) < 1e-5


def test_weights_and_caches_of_all_are_not_saved_here(pair, tmp_path):
    model, one = pair("teaching")
    with pytest.raises(CheckpointError, match="save needs all weights here"):
        g4.save(model, tmp_path / "saved")
    with pytest.raises(CheckpointError, match="sweep needs all weights here"):
        g4.sweep(model, prompt(9), prompt(9, 1))
    with pytest.raises(CheckpointError, match="'direct' needs all weights here"):
        g4.attribute(model, prompt(9), method="direct")
    cache = g4.PromptCache(model)
    text(model, prompt(9), cache=cache, options=dict(max_tokens=2))
    with pytest.raises(CheckpointError, match="neither saved nor loaded"):
        cache.save(tmp_path / "cache.safetensors")
    other = g4.PromptCache(one)
    other.save(tmp_path / "cache.safetensors")
    with pytest.raises(CheckpointError, match="neither saved nor loaded"):
        g4.PromptCache.load(tmp_path / "cache.safetensors", model)


def test_one_cluster_at_a_time_and_only_what_it_can_load(two, tmp_path):
    with pytest.raises(ClusterError, match="one cluster at a time"):
        g4.cluster(2)
    for how in (dict(experts="disk"), dict(layers="disk"), dict(adapter=tmp_path)):
        with pytest.raises(CheckpointError, match="without adapter"):
            g4.load(cluster=two, **how)
    with pytest.raises(ConfigError, match="does not exist"):
        g4.load(tmp_path, cluster=two)
    with pytest.raises(ClusterError, match="expected 'tensor' or 'pipeline'"):
        g4.load(cluster=two, strategy="data")
    told = two.ranks()
    assert [rank["rank"] for rank in told] == [0, 1] and "rank 1" in repr(two)
    assert off(g4.load(cluster=two)([[5, 6]]), g4.load()([[5, 6]])) < 1e-5


def test_a_script_of_mlx_launch(tmp_path, free_ports):
    script = tmp_path / "script.py"
    script.write_text(
        "import gemma4_mlx as g4\n"
        "with g4.cluster() as cluster:\n"
        "    model = g4.load(cluster=cluster)\n"
        "    print('says', g4.Chat(model).send('Count from 3 to 6.', temperature=0).text)\n"
    )
    launch = [Path(sys.executable).with_name("mlx.launch"), "-n", "2", "--backend", "ring"]
    launch += ["--starting-port", str(free_ports(2)), "--python", sys.executable, str(script)]
    run = subprocess.run(
        launch,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    expected = g4.Chat(g4.load()).send("Count from 3 to 6.", temperature=0).text
    assert run.stdout == f"says {expected}\n"
