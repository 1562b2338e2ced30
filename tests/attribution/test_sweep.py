"""Activation patching: each patch is what Patch does, identities, and what goes on where it was
stopped."""

import mlx.core as mx
import numpy as np
import pytest
from media_reference import picture

import gemma4_mlx as g4
from gemma4_mlx.attribution import patching, sweeping
from gemma4_mlx.attribution.aligning import correspondence
from gemma4_mlx.errors import AttributionError, ContextError
from gemma4_mlx.generation.prefill import Prompt
from gemma4_mlx.processing.image import load_image
from gemma4_mlx.processing.inputs import expand

N = 30
CLEAN = np.random.default_rng(0).integers(3, 490, N).tolist()
CORRUPT = [7 if i == 12 else 300 if i == 17 else token for i, token in enumerate(CLEAN)]


def values_of(model, ids, features=None):
    """What each tap holds: {(tap, layer): array without the batch axis}."""
    seen = {}

    def watch(name, layer, value, geometry):
        seen[name, layer] = np.array(value.astype(mx.float32))[0]

    with model.observe(watch):
        mx.eval(model(mx.array(ids)[None], features=features))
    return seen


def logit(model, ids, sweep, *changes, features=None):
    """The sweep's metric of a run of the whole prompt in one call."""
    with model.intervene(*changes):
        hidden = model.hidden(mx.array(ids)[None], features=features)
    logits = np.array(model.language_model.uncapped(hidden))[0, -1]
    return logits[sweep.target[0]] - (logits[sweep.against[0]] if sweep.against else 0)


class Replace:
    """An intervention that puts ``function(value)`` in place of one tap's value in one layer."""

    key = "by hand"

    def __init__(self, tap, layer, function):
        self.where, self.function, self.seen = (tap, layer), function, {}

    def observer(self, model):
        def observe(name, layer, value, geometry):
            self.seen[name, layer] = value
            return self.function(value, self.seen) if (name, layer) == self.where else None

        return observe


TAPS = {"residual": "layer_output", "attention": "attention_output", "mlp": "mlp_output",
        "feedforward": "feedforward_output"}  # fmt: skip


@pytest.mark.float32
@pytest.mark.parametrize("direction", ["restore", "corrupt"])
@pytest.mark.parametrize("over", TAPS)
@pytest.mark.parametrize("name", ["everything", "e2b"])
def test_each_patch_is_a_patch(name, over, direction, loaded):
    """Of random places, in a run of its own without a cache."""
    model, rng = loaded(name), np.random.default_rng(1)
    window = 2 if over == "attention" else 1
    chosen = dict(layers=(1, 2, 5, 6), positions=slice(12, N, 4), batch=5, chunk=64)
    options = dict(over=over, direction=direction, window=window)
    sweep = g4.sweep(model, CLEAN, CORRUPT, **options, **chosen)
    base, source = (CORRUPT, CLEAN) if direction == "restore" else (CLEAN, CORRUPT)
    spans = tuple((i, i + 1) for i in range(12, N, 4))
    assert sweep.axes == {"layer": (1, 2, 5, 6), "position": spans}
    assert sweep.done == 1 and sweep.effects.shape == (4, len(spans))
    assert abs(sweep.base - logit(model, base, sweep)) < 1e-3
    assert abs(sweep.source - logit(model, source, sweep)) < 1e-3
    there, tap = values_of(model, source), TAPS[over]
    for _ in range(4):
        i, j = map(rng.integers, sweep.effects.shape)
        span, first = spans[j], sweep.layers[i]
        patches = [
            g4.Patch(k, there[tap, k], span, span, tap) for k in range(first, first + window)
        ]
        expected = logit(model, base, sweep, *patches)
        assert abs(sweep.values[i, j] - expected) < 2e-3
    assert np.abs(sweep.effects).max() > 0.05


@pytest.mark.float32
def test_heads(loaded):
    model = loaded("everything")
    sweep = g4.sweep(model, CLEAN, CORRUPT, over="heads", layers=(2, 5, 6), indices=(3, 0))
    assert sweep.axes == {"layer": (2, 5, 6), "head": (0, 3), "position": ((12, N),)}
    spans = g4.sweep(
        model, CLEAN, CORRUPT, over="heads", layers=5, indices=0, positions=[-1, slice(14, 20)]
    )
    assert spans.spans == ((N - 1, N), (14, 20))
    there = values_of(model, CLEAN)

    def patched(layer, head, span):
        patch = g4.Patch(
            layer, there["head_outputs", layer][[head]], span, span, "head_outputs", head
        )
        return logit(model, CORRUPT, sweep, patch)

    for i, layer in enumerate(sweep.layers):
        for j, head in enumerate(sweep.indices):
            assert abs(sweep.values[i, j, 0] - patched(layer, head, (12, N))) < 2e-3
    for k, span in enumerate(spans.spans):
        assert abs(spans.values[0, 0, k] - patched(5, 0, span)) < 2e-3


@pytest.mark.float32
def test_experts(loaded):
    """What an expert adds, weight included, also where only one of the runs chose it; one that
    neither chose has no effect, and is not tried."""
    model = loaded("everything")
    sweep = g4.sweep(model, CLEAN, CORRUPT, over="experts", layers=(1, 3))
    here, there = values_of(model, CORRUPT), values_of(model, CLEAN)

    def part(seen, layer, expert):
        chosen = seen["expert_indices", layer] == expert
        return (
            (seen["expert_weights", layer] * chosen)[..., None] * seen["expert_outputs", layer]
        ).sum(1)

    tried = 0
    for i, layer in enumerate(sweep.layers):
        for expert in range(16):
            more = part(there, layer, expert) - part(here, layer, expert)
            if not more.any():
                assert sweep.effects[i, expert, 0] == 0
                continue

            def add(value, seen, more=more, layer=layer):
                return value.at[0, :, 0].add(
                    mx.array(more) / seen["expert_weights", layer][0, :, :1]
                )

            expected = logit(model, CORRUPT, sweep, Replace("expert_outputs", layer, add))
            assert abs(sweep.values[i, expert, 0] - expected) < 2e-3
            tried += 1
    assert tried > 20


@pytest.mark.float32
def test_per_layer_inputs(loaded):
    model, there = loaded("e2b"), values_of(loaded("e2b"), CLEAN)
    sweep = g4.sweep(model, CLEAN, CORRUPT, over="per_layer", positions=[slice(0, None), 12])
    for layer in (0, 7, 14):

        def put(value, seen, layer=layer):
            return mx.array(there["per_layer_input", layer])[None]

        expected = logit(model, CORRUPT, sweep, Replace("per_layer_input", layer, put))
        assert abs(sweep.values[layer, 0] - expected) < 2e-3
    # Nothing but the token itself differs, where the stream does not differ yet.
    assert abs(sweep.effects[0, 1] - sweep.effects[0, 0]) > 1e-3  # position 17 differs, too


@pytest.mark.parametrize("name", ["everything", "e2b", "moe", "textonly"])
def test_a_run_that_is_patched_with_itself_changes_no_bit(name, loaded):
    model = loaded(name)
    text = model.config.text
    for over in ("residual", "heads", "experts", "mlp", "per_layer"):
        if over == "experts" and not text.enable_moe_block:
            continue
        if over == "per_layer" and not text.hidden_size_per_layer_input:
            continue
        places = [slice(0, None)] if over == "residual" else [slice(3, 20), 29]
        sweep = g4.sweep(
            model,
            CLEAN,
            CLEAN,
            over=over,
            layers=(0, 2, text.num_hidden_layers - 2),
            positions=places,
            beside=over == "residual",
            batch=7,
        )
        assert sweep.against is None and sweep.base == sweep.source
        assert sweep.done == 1 and (sweep.effects == 0).all()
        assert np.isnan(sweep.moved).all()


@pytest.mark.float32
@pytest.mark.parametrize("name", ["everything", "e2b", "moe"])
def test_everything_patched_is_the_other_run(name, loaded):
    """What re-reads the corrupt prompt, per-layer embeddings and shared keys, patched too. Without
    these, only where no layer reads anything else any more."""
    model = loaded(name)
    text = model.config.text
    whole = dict(positions=[slice(0, None)], chunk=40)
    layers = range(0, text.num_hidden_layers, 3)
    for direction in ("restore", "corrupt"):
        options = dict(layers=layers, direction=direction)
        sweep = g4.sweep(model, CLEAN, CORRUPT, beside=True, **options, **whole)
        assert np.abs(sweep.values - sweep.source).max() < 1e-3
        assert abs(sweep.base - sweep.source) > 0.1
    alone = g4.sweep(model, CLEAN, CORRUPT, **whole)
    equal = np.abs(alone.values[:, 0] - alone.source) < 1e-3
    rereads = text.hidden_size_per_layer_input or text.num_kv_shared_layers
    assert equal[-1] and equal.all() == (not rereads)


@pytest.mark.float32
def test_the_prefix_is_read_once_and_rows_begin_at_their_patch(loaded, monkeypatch):
    """With one start, thirteen batches: one without patches, and three patches in each; with more,
    shorter ones."""
    model = loaded("everything")
    calls = []

    def count(name, layer, value, geometry):
        if name == "layer_input" and layer == 0:
            calls.append((value.shape[0], geometry.query_start, geometry.n))

    every = []
    for restarts in (1, 4):
        monkeypatch.setattr(patching, "RESTARTS", restarts)
        with model.observe(count):
            every.append(g4.sweep(model, CLEAN, CORRUPT, layers=(0, 4), batch=4))
        batches = [(start, n) for rows, start, n in calls if rows == 4]
        assert calls[0] == (1, 0, 12) and min(start for _, start, _ in calls[1:]) == 12
        assert all(start + n == N for start, n in batches)
        starts = {start for start, _ in batches}
        assert starts == ({12} if restarts == 1 else {12, 17, 22, 27})
        # 36 patches, of which the last start has 6 and the others 10.
        assert len(batches) == (1 + 12 if restarts == 1 else 4 + 3 * 4 + 2)
        calls.clear()
    assert np.abs(every[0].effects - every[1].effects).max() < 2e-3


@pytest.mark.float32
@pytest.mark.parametrize("same", [True, False])
def test_pictures(same, loaded):
    """The corrupt prompt shows another picture, which sees itself in both directions."""
    model = loaded("moe")
    images = [
        load_image(picture(200, 480, seed), model, budget=70) for seed in (1, 1 if same else 2)
    ]
    clean, corrupt = (
        expand([5, 6, 7, model.config.image_token_id, 8, token, 10], [image], model.config)
        for image, token in zip(images, (9, 11))
    )
    first, last = clean.media[0].start, clean.media[0].stop
    sweep = g4.sweep(
        model, clean, corrupt, layers=(1, 11), positions=[slice(0, None), first + 3], batch=3
    )
    # A picture that both see is read once; one that differs, from its beginning on.
    assert sweep.media[0] == sweep.media[1] if same else sweep.media[0] != sweep.media[1]
    assert np.abs(sweep.values[:, 0] - sweep.source).max() < 1e-3
    here, there = (
        model.encode_image(mx.array(i.patches), i.positions) for i in (images[1], images[0])
    )
    values, at = values_of(model, clean.tokens, there), (first + 3, first + 4)
    patch = g4.Patch(1, values["layer_output", 1], at, at)
    expected = logit(model, corrupt.tokens, sweep, patch, features=here)
    assert abs(sweep.values[0, 1] - expected) < 2e-3
    assert (sweep.effects[:, 1] == 0).all() if same else sweep.effects[0, 1] != 0
    prompts = Prompt.of(model, corrupt), Prompt.of(model, clean)
    assert sweeping._first_difference(*prompts) == (last + 2 if same else first)


@pytest.mark.float32
def test_prompts_of_different_lengths(loaded):
    model, longer = loaded("everything"), [*CLEAN[:12], 5, 6, 7, *CLEAN[13:]]
    for clean, corrupt in ((longer, CLEAN), (CLEAN, longer)):
        words = (
            rf"one prompt has {len(corrupt)} tokens and the other {len(clean)}.*differ in length "
            rf"at positions 12 to {len(corrupt) - 17} .*give align=True.*attribution.align"
        )
        with pytest.raises(AttributionError, match=words):
            g4.sweep(model, clean, corrupt)
        sweep = g4.sweep(model, clean, corrupt, align=True, layers=(0, 3, 7), batch=5)
        ends = len(corrupt) - 17
        assert sweep.spans == tuple((i, i + 1) for i in range(ends, len(corrupt)))
        assert sweep.done == 1 and abs(sweep.base - logit(model, corrupt, sweep)) < 1e-3
        assert abs(sweep.source - logit(model, clean, sweep)) < 1e-3
        there = values_of(model, clean)
        for i, j in ((0, 0), (1, 5), (2, 16)):
            at, of = (ends + j, ends + j + 1), (len(clean) - 17 + j, len(clean) - 16 + j)
            patch = g4.Patch(sweep.layers[i], there["layer_output", sweep.layers[i]], at, of)
            assert abs(sweep.values[i, j] - logit(model, corrupt, sweep, patch)) < 2e-3
        middle = g4.sweep(model, clean, corrupt, align=True, layers=3, positions=[12])
        assert middle.effects.tolist() == [[0.0]]
    places = {
        ((1, 2, 2, 3), (1, 2, 3)): [0, 1, -1, 2],
        ((1, 2, 3), (1, 2, 2, 3)): [0, 1, 3],
        ((4, 5), (6, 7, 8)): [-1, -1],
        ((1, 2, 9, 3, 4, 5), (1, 8, 7, 9, 6, 4, 5)): [0, -1, 3, 4, 5, 6],
    }
    for (base, source), expected in places.items():
        assert correspondence(model, list(base), list(source), True).tolist() == expected


@pytest.mark.float32
def test_metrics(loaded):
    model = loaded("everything")
    logits = [np.array(model(mx.array([ids])))[0, -1].astype(float) for ids in (CLEAN, CORRUPT)]
    likely = [int(x.argmax()) for x in logits]
    bound = 1e-3
    options = dict(layers=0, positions=[5])

    def runs(metric, **tokens):
        sweep = g4.sweep(model, CLEAN, CORRUPT, metric=metric, **options, **tokens)
        return np.array([sweep.source, sweep.base]), sweep

    assert likely[0] == likely[1]  # so that nothing is left to compare it with
    assert (runs("logit")[1].target[0], runs("logit")[1].against) == (likely[0], None)
    likely[1] = 77
    got, sweep = runs("logit", against=77)
    assert [sweep.target[0], sweep.against[0]] == likely
    uncapped = [30 * np.arctanh(x / 30) for x in logits]
    assert np.abs(got - [x[likely[0]] - x[likely[1]] for x in uncapped]).max() < 3 * bound
    assert (sweep.effects == 0).all()  # before the prompts differ
    probable = [np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in logits]
    got, sweep = runs("probability", target=40)
    assert sweep.against is None and np.abs(got - [p[40] for p in probable]).max() < bound
    got, _ = runs("log_probability", target=40, against=41)
    expected = [np.log(p[40] / p[41]) for p in probable]
    assert np.abs(got - expected).max() < bound

    def spread(x):
        assert x.shape == (512,)
        return x.max() - x.min()

    got, sweep = runs(spread)
    assert sweep.metric == "spread" and sweep.target is None
    assert np.abs(got - [np.ptp(x) for x in logits]).max() < bound


@pytest.mark.float32
def test_the_changed_model_is_swept(loaded):
    model, change = loaded("everything"), g4.Knockout(2, None, (20, None), (0, 5))
    with model.intervene(change):
        sweep = g4.sweep(model, CLEAN, CORRUPT, layers=4, positions=[20], target=9, against=8)
        source = values_of(model, CLEAN)["layer_output", 4]
    patch = g4.Patch(4, source, (20, 21), (20, 21))
    assert sweep.interventions == (change.key,) and not model.interventions
    assert abs(sweep.base - logit(model, CORRUPT, sweep, change)) < 1e-3
    assert abs(sweep.values.item() - logit(model, CORRUPT, sweep, change, patch)) < 2e-3


def test_a_bar_is_shown_and_says_what_ctrl_c_leaves(loaded, tmp_path, capsys, monkeypatch):
    model, file = loaded("everything"), tmp_path / "heads.g4sweep"
    options = dict(over="heads", layers=(1,), batch=3, target=9, against=8, file=file)
    seen, tell = [], sweeping.Teller.__call__

    def interrupt(self, event):
        tell(self, event)
        seen.append(event)
        if event.unit == "patches":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(sweeping.Teller, "__call__", interrupt)
        g4.sweep(model, CLEAN, CORRUPT, **options)
    assert [event.unit for event in seen][-2:] == ["tokens", "patches"]
    said = capsys.readouterr().err
    assert "2 of 4 patches" in said
    done = g4.open_sweep(file).done  # the batch that was under way was finished
    assert said.endswith(f"after {done:.0%} of the patches. The same call goes on from {file}.\n")
    g4.sweep(model, CLEAN, CORRUPT, **options)
    assert g4.open_sweep(file).done == 1
    assert done == 1 or "█ 4 of 4 patches, " in capsys.readouterr().err
    capsys.readouterr()
    g4.sweep(model, CLEAN, CORRUPT, progress=False, **options)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_it_goes_on_where_it_stopped(stop, loaded, tmp_path, capsys):
    model, file = loaded("everything"), tmp_path / "heads.g4sweep"
    options = dict(over="heads", layers=(1, 2), batch=3, target=9, against=8)
    whole = g4.sweep(model, CLEAN, CORRUPT, progress=False, **options)
    said, runs = [], []

    def interrupt(event):
        said.append(event)
        if event.total == 8 and event.done >= 4:
            raise stop

    def count(name, layer, value, geometry):
        if name == "tokens" and value.shape[0] == 3:
            runs.append(1)

    with pytest.raises(stop):
        g4.sweep(model, CLEAN, CORRUPT, file=file, progress=interrupt, **options)
    assert not capsys.readouterr().err, "there is a function for that"
    half = g4.open_sweep(file)
    assert 0.4 < half.done < 1 and len(half.places) == round(8 * half.done)
    with model.observe(count):
        rest = g4.sweep(model, CLEAN, CORRUPT, file=file, progress=said.append, **options)
    assert len(runs) == 1 + -(-round(8 * (1 - half.done)) // 2)
    assert rest.done == 1 and np.array_equal(rest.effects, whole.effects)
    assert g4.open_sweep(file).done == 1
    assert (said[-1].done, said[-1].total) == (8, 8)
    runs.clear()
    with model.observe(count):
        again = g4.sweep(model, CLEAN, CORRUPT, file=file, **options)
    assert not runs and np.array_equal(again.effects, whole.effects)
    for other, words in (
        (dict(layers=(1, 3)), "it is over other layers"),
        (dict(direction="corrupt"), "its direction is 'restore', here 'corrupt'"),
        (dict(target=5), "its target is"),
        (dict(over="mlp"), "its over is 'heads', here 'mlp'"),
    ):
        with pytest.raises(AttributionError, match=f"holds another sweep: {words}"):
            g4.sweep(model, CLEAN, CORRUPT, file=file, **{**options, **other})
    with pytest.raises(AttributionError, match="its prompts are others"):
        g4.sweep(model, CLEAN, [*CORRUPT[:-3], 9, *CORRUPT[-2:]], file=file, **options)
    with (
        model.intervene(g4.ScaleHeads(0, 1)),
        pytest.raises(AttributionError, match=r"its interventions is \(\)"),
    ):
        g4.sweep(model, CLEAN, CORRUPT, file=file, **options)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (dict(over="layers"), "over='layers'; there are 'residual', 'attention'"),
        (dict(direction="both"), "direction='both'; there are 'restore', 'corrupt'"),
        (dict(metric="loss"), "metric='loss'; there are 'logit'"),
        (dict(metric=lambda x: x), r"one number of the logits \(V,\), not a array"),
        (dict(metric=lambda x: float("nan")), "not a finite number there"),
        (dict(over="experts"), "this model has no experts"),
        (dict(layers=15), "layers 15: there are layers 0 to 14"),
        (dict(layers=()), "layers none at all"),
        (dict(layers="all"), "layers 'all': give numbers"),
        (dict(layers=(14,), window=2), "layers 14: there are layers 0 to 13 to begin at"),
        (dict(window=0), "a window of 0 layers"),
        (dict(over="heads", window=2), "heads of different layers"),
        (dict(over="heads", indices=4), "heads 4: there are heads 0 to 3"),
        (dict(indices=(1,)), "over='residual' patches neither heads nor experts"),
        (dict(positions=[30]), "positions 30: the prompt that is patched has 30 tokens, 0 to 29"),
        (dict(positions=[-31]), "positions -31"),
        (dict(positions=[]), "none at all"),
        (dict(positions="key"), "positions='key'|positions=.*give a slice"),
        (dict(positions=[slice(5, 5)]), "has 30 tokens"),
        (dict(positions=[slice(0, 9, 2)]), "a span has no step"),
        (dict(over="heads", beside=True), "beside=True is about the residual stream"),
        (dict(batch=1), "a batch of 1 rows"),
        (dict(chunk=0), "a chunk of 0 tokens"),
        (dict(target=512), "token 512 does not exist"),
        (dict(target=5, against=5), "compared with itself"),
        (dict(target="a"), "needs a tokenizer"),
    ],
)
def test_wrong_arguments_say_so(wrong, words, loaded):
    with pytest.raises(AttributionError, match=words):
        g4.sweep(loaded("textonly"), CLEAN, CORRUPT, **wrong)


def test_other_wrong_arguments(loaded, monkeypatch):
    model = loaded("moe")
    with pytest.raises(AttributionError, match="str is no model"):
        g4.sweep("clean", model, CORRUPT)
    with pytest.raises(AttributionError, match="no per-layer embeddings"):
        g4.sweep(model, CLEAN, CORRUPT, over="per_layer")
    with pytest.raises(ContextError, match="context is 4,096"):
        g4.sweep(model, [5] * 4097, CORRUPT)
    monkeypatch.setattr(sweeping, "free_memory", lambda: sweeping.RESERVE + 3 * 2**20)
    with pytest.raises(AttributionError, match=r"a batch of 16 rows.*batch=\d+ would fit"):
        g4.sweep(model, CLEAN, CORRUPT, batch=16)
    fitting = g4.sweep(model, CLEAN, CORRUPT, layers=0, positions=[12])
    assert fitting.done == 1
    monkeypatch.setattr(sweeping, "free_memory", lambda: 0)
    with pytest.raises(AttributionError, match=r"GB can be used.*give shorter prompts"):
        g4.sweep(model, CLEAN, CORRUPT)
