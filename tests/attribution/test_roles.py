"""Head roles: hand-built heads, dense weights, the teaching model's needle, files."""

import json

import mlx.core as mx
import numpy as np
import pytest
from media_reference import clip, picture
from without_mlx import run

import gemma4_mlx as g4
from gemma4_mlx.attribution import HeadRoles, Needle, open_head_roles
from gemma4_mlx.attribution.roles import _Copies, _read, _reading, targets_of
from gemma4_mlx.attribution.roles_data import FILE, FROM, ROLES
from gemma4_mlx.errors import AttributionError, ContextError, TraceError
from gemma4_mlx.processing.audio import load_audio
from gemma4_mlx.processing.image import load_image
from gemma4_mlx.processing.inputs import ModelInputs, encode_media, expand
from gemma4_mlx.tracing.data import fileformat
from gemma4_mlx.tracing.data.tokens import Tokens

LAYER = 2  # full attention, one KV head of 128 numbers
NEEDLE = [401, 402, 403, 404]
PROMPT = [5, 6, 7, 8, *NEEDLE, 9, 10, 11, 12, 13]
#: As two prompts of the same text: the second half repeats the first.
REPEATED = [2, *range(20, 40), *range(20, 40)]


@pytest.fixture(scope="module")
def model(checkpoint):
    return g4.load(checkpoint("everything").folder)


class Built:
    """Heads of one layer that put all their weight on one key: ``targets`` (heads, n), -1 for
    heads that weigh all keys alike."""

    key = "built by hand"

    def __init__(self, targets):
        self.targets, size = np.array(targets), 128
        self.codes = 30 * np.eye(size, dtype=np.float32)

    def observer(self, model):
        def observe(name, layer, value, geometry):
            if layer != LAYER or name not in ("queries", "keys"):
                return None
            if name == "keys":
                stop = geometry.key_start + geometry.m
                built = self.codes[None, geometry.key_start : stop]
            else:
                rows = slice(geometry.query_start, geometry.query_start + geometry.n)
                targets = self.targets[:, rows]
                built = np.where(targets[..., None] < 0, 0, self.codes[targets])
            return mx.array(built)[None].astype(value.dtype)

        return observe


def test_a_copying_head_scores_1_and_a_uniform_one_0(model):
    """Of the needle's four tokens: one head copies all, one none, one half, and one looks at the
    right token when it was said already."""
    n, start, answer = len(PROMPT) + 6, 4, len(PROMPT)
    said = [14, *NEEDLE, 15]
    targets = np.tile(np.arange(n), (4, 1))
    targets[1] = -1
    for i in range(4):
        query = answer + i  # the answer's word 14, then the needle's: what it says is NEEDLE[i]
        targets[0, query] = start + i
        targets[2, query] = start + i if i < 2 else 0
        targets[3, query] = start + i - 1
    with model.intervene(Built(targets)):
        for chunk in (100, 5):
            roles = g4.head_roles(model, [Needle(PROMPT, slice(4, 8), said)], chunk=chunk)
            assert roles.of("retrieval")[LAYER].tolist() == [1, 0, 0.5, 0]
    assert roles.prompts["retrieval"].tolist() == [1] * 8
    assert roles.labels[LAYER, 0][0] == "retrieval" and roles.interventions == ("built by hand",)
    assert roles.top("retrieval", 1)[0] == (
        type(roles.top("retrieval", 1)[0])(LAYER, 0, "retrieval", 1.0, 0.0)
    )


def test_other_hand_built_heads(model):
    """All weight where the role says; a head that weighs all alike has the chance beside it."""
    at = np.arange(len(REPEATED))
    copy = np.where(at > 20, at - 20, at)
    built = {"induction": np.where(at > 20, copy + 1, at), "duplicate": copy,
             "previous": np.maximum(at - 1, 0), "sink": 0 * at}  # fmt: skip
    with model.intervene(Built(list(built.values()))):
        roles = g4.head_roles(model, [REPEATED])
    for head, role in enumerate(built):
        scores = roles.of(role)[LAYER]
        assert abs(scores[head] - 1) < 1e-3 and roles.top(role, 1)[0].head == head
        others = [i for i in range(4) if i != head]
        assert scores[others].max() < 0.1
        assert roles.labels[LAYER, head] == (role,)
    with model.intervene(Built(np.full((4, len(REPEATED)), -1))):
        roles = g4.head_roles(model, [REPEATED])
    for role in built:
        assert np.abs(roles.of(role)[LAYER] - roles.chance[role][LAYER]).max() < 2e-2, role
    for role in ("retrieval", "picture", "sound"):
        assert np.isnan(roles.of(role)).all() and not roles.prompts[role].any()
        assert roles.top(role) == []


def dense(weights, tokens, window):
    """Scores by the definition, of weights (heads, n, n)."""
    n, ids = len(tokens), tokens.ids
    at, soft = np.arange(n), np.isin(tokens.kinds, (1, 2, 3))
    seen = at[None] <= at[:, None]
    seen &= at[None] > at[:, None] - (window or n)
    earlier = at[None] < at[:, None]
    same = (ids[:, None] == ids[None]) & earlier & ~soft[:, None] & ~soft[None]
    after = np.zeros_like(same)
    after[:, 1:] = same[:, :-1]
    picture = np.isin(tokens.kinds, (1, 2))[None] & ~soft[:, None]
    keys = {"duplicate": same, "induction": after, "previous": at[None] == at[:, None] - 1,
            "sink": (at[None] == 0) & (at[:, None] > 0), "picture": picture,
            "sound": (tokens.kinds == 3)[None] & ~soft[:, None]}  # fmt: skip
    for role, these in keys.items():
        these = these & seen
        can = these.any(1)
        if can.any():
            chance = (these.sum(1) / seen.sum(1))[can].mean()
            yield role, (weights * these).sum(-1)[:, can].mean(-1), chance


def assert_means(model, inputs, weights, chunk):
    """``weights``: layer -> (heads, n, n)."""
    roles, tokens = (
        g4.head_roles(model, [inputs], chunk=chunk),
        _reading(model, inputs, None).tokens,
    )
    text = model.config.text
    for layer in range(text.num_hidden_layers):
        window = None if text.is_full(layer) else text.sliding_window
        found = {role for role in ROLES if roles.prompts[role][layer]}
        for role, scores, chance in dense(weights(layer), tokens, window):
            assert np.abs(roles.of(role)[layer] - scores).max() < 2e-5, (role, layer)
            assert abs(roles.chance[role][layer] - chance) < 1e-6
            found.remove(role)
        assert not found
    return roles


@pytest.mark.float32
@pytest.mark.parametrize("chunk", [1000, 16])
def test_scores_are_means_of_transformers_weights(chunk, model, checkpoint):
    reference = checkpoint("everything")
    inputs = ModelInputs.of_tokens(reference.ids[0].tolist())
    assert_means(model, inputs, lambda i: getattr(reference, f"attn_{i}").astype(float), chunk)


@pytest.mark.float32
def test_pictures_and_sounds(model):
    """Their own queries do not count."""
    config = model.config
    media = [
        load_image(picture(200, 480), model, budget=70),
        load_audio(clip(9000), model, rate=16_000),
    ]
    ids = [5, 6, config.image_token_id, 7, 5, config.audio_token_id, 9, 6, 7]
    inputs, kept = expand(ids, media, config), {}

    def watch(name, layer, value, geometry):
        if name == "queries":
            kept[layer] = value
        elif name == "keys":
            keys = mx.repeat(value, kept[layer].shape[1] // value.shape[1], axis=1)
            scores = kept[layer] @ keys.swapaxes(-1, -2)
            scores = mx.where(geometry.mask(), scores, -mx.inf)
            kept[layer] = np.array(mx.softmax(scores, axis=-1))[0].astype(float)

    features = inputs.features(encode_media(model, inputs, None, 0))
    with model.observe(watch):
        mx.eval(model.hidden(mx.array(inputs.tokens)[None], features=features))
    roles = assert_means(model, inputs, kept.get, 1000)
    assert roles.prompts["picture"].any() and roles.prompts["sound"].any()


def test_copies_in_sight():
    """Of a window: copies that left it do not count."""
    ids = [7, 7, 8, 7, 9, 8, 7, 7]
    tokens = Tokens(ids, [str(i) for i in ids])
    found = targets_of(tokens, 4)
    assert found["duplicate"][2].tolist() == [0, 1, 0, 2, 0, 1, 1, 1]
    assert found["induction"][2].tolist() == [0, 1, 0, 2, 0, 1, 1, 2]
    assert found["sink"][2].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert targets_of(tokens, None)["duplicate"][2].tolist() == [0, 1, 0, 2, 0, 1, 3, 4]


def test_the_teaching_models_needle_heads():
    """Found by the answers that the model gives itself; the layers are those of full attention
    that carry the needle, and the heads that look there most."""
    model = g4.load()
    items = ["key 208", "drum 471", "lamp 935"]
    text = " ".join(f"Note: {item}." for item in items)
    prompts = [
        Needle(
            [{"role": "user", "content": f"{text}\nWhat is the note for {key.split()[0]}?"}], key
        )
        for key in items
    ]
    said = []
    roles = g4.head_roles(model, [*prompts, REPEATED], progress=said.append)
    assert [(event.done, event.total) for event in said] == [(i, 4) for i in (1, 2, 3, 4)]
    best = roles.top("retrieval", 4)
    assert all(model.config.text.is_full(each.layer) and each.score > 0.6 for each in best)
    assert roles.prompts["retrieval"][0] == 3 and roles.prompts["previous"][0] == 4
    answers = [Needle(each.prompt, each.needle, f"The note for {each.needle}.") for each in prompts]
    given = g4.head_roles(model, answers)
    assert np.abs(given.of("retrieval") - roles.of("retrieval")).max() < 1e-6
    reading = _reading(model, answers[0], None)
    trace = g4.trace(model, reading.prompt.tokens, routing=None)
    at = slice(len(reading.tokens) - 3, len(reading.tokens) - 2)  # says the value's last digit
    ranked = [(each.layer, each.head) for each in trace.attention.find(at, reading.needle, 12)]
    assert (best[0].layer, best[0].head) in ranked


def test_long_answers_are_looked_at_in_pieces(model, monkeypatch):
    needle = Needle(list(range(5, 60)), slice(3, 30), list(range(5, 60)))
    reading = _reading(model, needle, None)
    whole = _read(model, reading, 100, None)[1]
    monkeypatch.setattr("gemma4_mlx.attribution.roles.SCORES", 4 * 4 * 110 * 3)
    assert np.array_equal(_read(model, reading, 17, None)[1], whole)
    assert _Copies(model, reading).scores().shape == (8, 4)


@pytest.mark.parametrize(
    "prompts, words",
    [
        ([], "0 prompts"),
        ("a text", "a list of prompts, also of one"),
        (Needle([5, 6], slice(0, 1), [5]), "a list of prompts"),
        ([Needle([5, 6], slice(4, 9), [5])], "no span of the prompt's 2 tokens"),
        ([Needle([5, 6], slice(0, 2, 2), [5])], "no span"),
        ([Needle([5, 6], "key", [5])], "'key' stands in the prompt 0 times"),
        ([Needle([5, 5], "<5>", [5])], "stands in the prompt 2 times"),
        ([Needle([5, 6], "", [5])], "'' stands in the prompt 0 times"),
        ([Needle([5, 6], slice(0, 1), [])], "answer to a needle's prompt is empty"),
        ([Needle([5, 6], slice(0, 1), "key")], "needs a tokenizer; give its ids"),
    ],
)
def test_wrong_prompts_say_so(prompts, words, model):
    with pytest.raises(AttributionError, match=words):
        g4.head_roles(model, prompts)


def test_other_wrong_arguments(model):
    with pytest.raises(AttributionError, match="list is no model"):
        g4.head_roles([[5, 6]], model)
    with pytest.raises(AttributionError, match="chunks of 0 tokens"):
        g4.head_roles(model, [[5, 6]], chunk=0)
    with pytest.raises(TraceError, match="needs a tokenizer"):
        g4.head_roles(model, ["text"])
    with pytest.raises(ContextError, match="context is 4,096"):
        g4.head_roles(model, [[5] * 4097])
    with (
        model.intervene(g4.Knockout(2, 0, 1, 0)),
        pytest.raises(TraceError, match="cannot be traced while Knockout"),
    ):
        g4.head_roles(model, [[5, 6]])


@pytest.fixture
def table():
    scores = {role: np.full((2, 3), 0.01 * i, np.float32) for i, role in enumerate(ROLES)}
    scores["retrieval"][1] = 0.3, 0.9, np.nan
    scores["sink"][:, 1] = 0.8
    return HeadRoles(
        scores,
        {role: np.full(2, 0.125, np.float32) for role in ROLES},
        {role: np.array([4, 5], np.int32) for role in ROLES},
        ("sliding_attention", "full_attention"),
        {"source": "tiny"},
        ("Boost(...)",),
    )


def test_a_table_of_heads(table, tmp_path):
    assert table.labels == {
        (1, 0): ("retrieval",),
        (1, 1): ("retrieval", "sink"),
        (0, 1): ("sink",),
    }
    assert [(r.layer, r.head, r.chance) for r in table.top("retrieval", 2)] == [
        (1, 1, 0.125), (1, 0, 0.125)
    ]  # fmt: skip
    assert len(table.top("retrieval")) == 5 and FROM["retrieval"] == 0.1
    assert repr(table) == "HeadRoles(2 layers x 3 heads: 2 retrieval, 2 sink)"
    frame = table.to_dataframe()
    assert list(frame.columns) == ["layer", "head", "type", *ROLES, "label"]
    assert frame["label"].tolist() == ["", "sink", "", "retrieval", "retrieval, sink", ""]
    with pytest.raises(AttributionError, match="no role 'copy'; there are retrieval"):
        table.of("copy")
    file = table.save(tmp_path / "tiny.g4heads")
    back = open_head_roles(file)
    assert repr(back) == repr(table) and back.labels == table.labels
    assert (back.model, back.interventions) == (table.model, table.interventions)
    for kind in ("scores", "chance", "prompts"):
        for role in ROLES:
            ours, theirs = getattr(table, kind)[role], getattr(back, kind)[role]
            assert np.array_equal(ours, theirs, equal_nan=True)
    assert back.save(tmp_path / "again.g4heads").read_bytes() == file.read_bytes()
    with pytest.raises(AttributionError, match="cannot be written"):
        back.save(file / "below")
    done = run("print(g4.open_head_roles(sys.argv[1]).top('retrieval', 1)[0].layer)", file)
    assert done.stdout.strip() == "1", done.stderr
    assert "MissingError: gemma4_mlx.head_roles needs MLX" in run("g4.head_roles").stderr


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, said: arrays.pop("scores.sink"),
        lambda arrays, said: arrays.update(more=arrays["chance.sink"]),
        lambda arrays, said: arrays.update({"scores.sound": arrays["chance.sink"]}),
        lambda arrays, said: arrays.update({"prompts.sound": arrays["chance.sink"]}),
        lambda arrays, said: said.update(layer_types=["full_attention"]),
        lambda arrays, said: said.update(model=5),
        lambda arrays, said: said.pop("interventions"),
    ],
)
def test_damage_is_named(change, table, tmp_path):
    file = table.save(tmp_path / "tiny.g4heads")
    arrays, said = fileformat.read(file, FILE)
    arrays = {name: np.array(array) for name, array in arrays.items()}
    change(arrays, said := json.loads(json.dumps(said)))
    fileformat.write(file, arrays, said, FILE)
    with pytest.raises(AttributionError, match="damaged"):
        open_head_roles(file)
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(AttributionError, match=r"cut short|not a file of head roles"):
        open_head_roles(file)
