"""An atlas built with a model: the same as of traces, from every kind of corpus, and resumed."""

import errno
import itertools
import time

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_atlas import same

import gemma4_mlx as g4
from gemma4_mlx.errors import StudyError
from gemma4_mlx.generation import engine
from gemma4_mlx.processing import load_image
from gemma4_mlx.processing.inputs import ModelInputs
from gemma4_mlx.progress import Teller
from gemma4_mlx.studies import corpora, drop
from gemma4_mlx.studies.building import build, builder, reading
from gemma4_mlx.studies.data.counts import UNIT
from gemma4_mlx.tracing import RoutingPlan

COUNTING = [f"Count from {i} to {i + 4}: " + ", ".join(map(str, range(i, i + 5))) for i in range(6)]
TALK = [
    [{"role": "user", "content": f"Hello {i}"}, {"role": "assistant", "content": "Hello!"}]
    for i in range(6)
]


@pytest.fixture(scope="module")
def model():
    return g4.load()


def quiet(model, corpora, **options):
    return g4.atlas(model, corpora, **{"tokens": 10**6, "progress": False, **options})


@pytest.fixture(scope="module")
def built(model):
    return quiet(model, {"count": COUNTING, "talk": TALK})


@pytest.fixture
def pairs(model, monkeypatch):
    """Two documents are read at once, so that few make many groups; the atlas built so."""
    monkeypatch.setattr(build, "MOST", 2)
    return quiet(model, {"count": COUNTING, "talk": TALK})


def test_an_atlas_is_that_of_the_documents_traces(model, built, monkeypatch):
    monkeypatch.setattr(build, "MOST", 1)
    plan = RoutingPlan(norms=True)
    tokenizer = model.tokenizer
    talk = [g4.trace(model, chat, attention=None, routing=plan) for chat in TALK]
    count = [g4.trace(model, text, attention=None, routing=plan) for text in COUNTING]
    # A trace of messages opens the model's next turn; the document ends with the conversation.
    ends = [t.tokens.ids.tolist()[: -len(tokenizer.encode("<|turn>model\n"))] for t in talk]
    assert [t.n for t in count] and all(len(e) > 10 for e in ends)
    own = g4.Atlas.of({"count": count}, vocabulary=model.config.text.vocab_size)
    g = built.labels.index("count")
    for name in ("tokens", "documents", "counts"):
        assert np.array_equal(built.counts[name][g], own.counts[name][0]), name
    alone = quiet(model, {"count": COUNTING})
    assert alone.labels == ("count",) and np.isnan(alone.lifts().p).all()
    for name in ("together", "paths", "norms", "weighted_norms", "largest_norm", "next_counts"):
        assert np.array_equal(alone.counts[name], own.counts[name]), name
    for ask in (alone.lifts().experts, lambda label: drop(alone, label)):
        with pytest.raises(StudyError, match="'count' is the only label"):
            ask("count")


def test_roles_and_texts_are_those_of_the_conversation(built):
    roles = built.by("role")
    assert {"user", "answer", "text"} <= set(roles.groups.names)
    assert built.text(2) == "<bos>" and built.model["source"]
    some = built.examples(0, int(built.load()[0].argmax()))
    assert any("Hello" in c.before + c.text + c.after for c in some)


@pytest.mark.float32
def test_predicted_tokens_and_early_routing_are_the_models(model):
    """Against the model's own logits, and the next router by hand."""
    ids = [2, *model.tokenizer.encode(" ".join(COUNTING))]
    atlas = quiet(model, {"x": [ids]})
    seen = {}

    def look(name, layer, value, geometry):
        if name in ("attention_residual", "expert_indices", "expert_outputs"):
            seen[name, layer] = np.array(value[0])

    with model.observe(look):
        logits = np.array(model(mx.array(ids)[None])[0])
    at = np.arange(reading.FIRST, len(ids), reading.LOOKED_AT)
    predicted = np.bincount(logits[at].argmax(-1), minlength=logits.shape[1])
    np.testing.assert_array_equal(atlas.counts["predicted_seen"], predicted)
    ranks = np.zeros_like(atlas.counts["early"])
    for layer in range(len(ranks)):
        stream = mx.array(seen["attention_residual", layer][at])[None]
        scores = np.array(model.layers[layer + 1].router.scores(stream))[0]
        for row, chosen in zip(scores, seen["expert_indices", layer + 1][at]):
            for expert in chosen:
                ranks[layer, (row > row[expert]).sum()] += 1
    np.testing.assert_array_equal(atlas.counts["early"], ranks)
    assert atlas.early_recall(1).max() < 1 == atlas.early_recall(16).min()
    at = np.arange(reading.FIRST, len(ids), reading.ADDED_UP)
    sums = np.zeros_like(atlas.counts["written"], float)
    for layer in range(len(sums)):
        for i in at:
            for rank, expert in enumerate(seen["expert_indices", layer][i]):
                sums[layer, expert] += seen["expert_outputs", layer][i, rank]
    np.testing.assert_allclose(atlas.counts["written"] / UNIT, sums, atol=1e-4)
    assert atlas.counts["written_tokens"].sum() == len(at) * len(sums) * 2


@pytest.mark.float32
def test_what_an_expert_writes_is_read_through_the_norms_and_the_head(model, built):
    layer, expert = np.argwhere(built.counts["written_tokens"] > 3)[0]
    mean = built.counts["written"][layer, expert] / built.counts["written_tokens"][layer, expert]
    behind = model.layers[int(layer)]
    for norm in (behind.post_feedforward_layernorm_2, behind.post_feedforward_layernorm):
        mean = mean * np.array(norm.weight)
    mean = mean / np.sqrt((mean**2).mean())
    table = np.array(model.language_model.model.embed_tokens.weight)
    logits = table @ (mean * np.array(model.language_model.model.norm.weight))
    order = np.argsort(-logits)
    assert built.promoted[layer, expert].tolist() == order[:10].tolist()
    assert built.suppressed[layer, expert].tolist() == order[::-1][:10].tolist()
    unused = built.counts["written_tokens"] == 0
    assert (built.promoted[unused] == -1).all()


def test_pictures_are_counted_and_shown(model, tmp_path):
    rng = np.random.default_rng(0)
    picture = load_image(rng.integers(0, 255, (96, 96, 3)).astype(np.uint8), model)
    config = model.config
    ids = [2, *model.tokenizer.encode("See"), config.image_token_id]
    from gemma4_mlx.processing.inputs import expand

    inputs = expand(ids, [picture], config)
    atlas = quiet(model, {"seen": [inputs], "text": COUNTING})
    image = atlas.by("kind").groups.names.index("image")
    assert atlas.by("kind").groups.tokens[image] == picture.n_soft
    patches = [
        c
        for layer in atlas.layers
        for e in range(16)
        for c in atlas.examples(layer, e)
        if c.picture is not None
    ]
    assert patches and all(0 <= c.box[0] < c.box[2] <= 1.001 for c in patches)
    again = g4.open_atlas(atlas.save(tmp_path))
    assert list(again.contexts.pictures) == list(atlas.contexts.pictures)


def lessons(model):
    """Documents of every kind and of very different lengths, pictures and sounds among them."""
    whole = corpora.teaching(model, documents=3, seed=5)
    return [document for corpus in whole.values() for document in corpus]


@pytest.mark.float32
def test_documents_in_one_batch_are_read_as_if_alone(model, monkeypatch):
    """None sees another: each token goes to the same experts, and what they put out is equal to a
    rounding."""
    some = lessons(model)
    monkeypatch.setattr(reading, "FULL", 0.0)  # whatever their lengths
    monkeypatch.setattr(reading, "AREA", 10**5)
    reader = builder.Builder(model)
    plan = RoutingPlan(norms=True)
    batched = engine().run(lambda: list(_last(reading.read(model, some, reader.known))))
    assert len({len(document) for document in some}) > 10
    for document, piece in zip(some, batched):
        alone = g4.trace(model, document, attention=None, routing=plan)
        mine, theirs = piece.trace.routing, alone.routing
        assert np.array_equal(mine.experts, theirs.experts)
        np.testing.assert_allclose(mine.weights, theirs.weights, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(mine.norms, theirs.norms, rtol=1e-4)
        assert piece.trace.tokens.roles == alone.tokens.roles
        np.testing.assert_array_equal(piece.trace.tokens.kinds, alone.tokens.kinds)
        assert len(piece.trace.media) == len(document.media)


def _last(steps):
    """What a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@pytest.mark.float32
def test_how_documents_are_batched_makes_no_difference(model, monkeypatch):
    """Beyond a rounding: all counts are equal, also of what is sampled."""
    some, atlases = lessons(model), []
    for most, full in ((1, 1.0), (5, 0.9), (24, 0.0)):
        monkeypatch.setattr(build, "MOST", most)
        monkeypatch.setattr(build, "GROUP", 10**6)
        monkeypatch.setattr(reading, "FULL", full)
        atlases.append(quiet(model, {"x": some}))
    first, *others = atlases
    for other in others:
        for name, array in first.counts.arrays.items():
            if name in ("norms", "weighted_norms", "largest_norm", "written"):
                np.testing.assert_allclose(other.counts[name], array, rtol=1e-4, atol=64)
            else:
                assert np.array_equal(other.counts[name], array), name
        assert other.read == first.read and other.texts == first.texts


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=40))
def test_batches_hold_every_piece_once_and_little_filling(lengths):
    found = list(reading.batches(lengths))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    for batch in found:
        mine = [lengths[i] for i in batch]
        area = len(mine) * max(mine)
        assert len(mine) == 1 or (area <= reading.AREA and sum(mine) >= reading.FULL * area)
    if set(lengths) == {lengths[0]}:
        assert len(found) == -(-len(lengths) // max(1, reading.AREA // lengths[0]))


def test_a_long_document_is_cut_and_said(model):
    ids = [2, *model.tokenizer.encode(" ".join(COUNTING * 2))]
    atlas = quiet(model, {"x": [ids]}, context=64)
    pieces = -(-(len(ids) - 1) // 63)
    assert atlas.remarks == {
        "x": [f"document 0 of 'x' has {len(ids)} tokens: read in {pieces} pieces of 64"]
    }
    assert atlas.counts["documents"].tolist() == [1]
    assert atlas.tokens == len(ids) - 1 + pieces  # each piece begins with <bos>
    assert atlas.documents.arrays["tokens"][0, 0] == atlas.tokens
    last = atlas.counts["position_tokens"].nonzero()[0].max()
    assert last == 6  # positions 32 to 63


def test_a_very_long_document_counts_as_several(model, monkeypatch):
    monkeypatch.setattr(builder, "LONGEST", 128)
    ids = [2, *model.tokenizer.encode(" ".join(COUNTING * 2))]
    atlas = quiet(model, {"x": [ids]}, context=64)
    assert atlas.counts["documents"][0] > 1 and "counted as" in atlas.remarks["x"][0]


def test_pictures_are_never_cut(model):
    config = model.config
    from gemma4_mlx.processing.inputs import expand

    picture = load_image(np.zeros((96, 96, 3), np.uint8), model)
    text = model.tokenizer.encode(COUNTING[0])
    inputs = expand([2, *text, config.image_token_id, *text], [picture], config)
    pieces = list(reading.cut(inputs, 40, 2))
    assert len(pieces) > 1 and all(p.tokens[0] == 2 for p in pieces)
    assert sum(len(p.media) for p in pieces) == 1
    for piece in pieces:
        soft = np.flatnonzero(piece.token_types)
        assert soft.tolist() == [i for s in piece.media for i in range(s.start, s.stop)]


def test_the_models_own_answers_are_counted_if_asked_for(model):
    questions = [[{"role": "user", "content": "Count from 3 to 9"}]]
    without, with_ = (quiet(model, {"q": questions}, answers=n) for n in (0, 30))
    said = g4.Chat(model, options={"temperature": 0.0, "max_tokens": 30}).send(
        questions[0][0]["content"]
    )
    roles = dict(zip(with_.by("role").groups.names, with_.by("role").groups.tokens.tolist()))
    assert with_.tokens > without.tokens and roles["answer"] >= len(said.tokens)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_killed_build_goes_on_without_counting_twice(model, pairs, tmp_path, stop, monkeypatch):
    """What was not saved is read again; what was saved is not."""
    monkeypatch.setattr(build, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(build, "SAVE_SHARE", 1e9)
    texts, done = {"count": COUNTING, "talk": TALK}, []

    def kill(progress):
        done.append(progress)
        if len(done) == stop:
            raise Killed

    with pytest.raises(Killed):
        quiet(model, texts, folder=tmp_path, progress=kill)
    if stop > 1:
        assert g4.open_atlas(tmp_path).counts["documents"].sum() == 2 * (stop - 1)
    atlas = quiet(model, texts, folder=tmp_path)
    assert same(atlas, pairs) and same(g4.open_atlas(tmp_path), pairs)
    assert atlas.texts == pairs.texts
    again = quiet(model, texts, folder=tmp_path)
    assert same(again, pairs)
    more = quiet(model, {**texts, "more": COUNTING[:2]}, folder=tmp_path)
    assert same(more, quiet(model, {**texts, "more": COUNTING[:2]}))


def test_ctrl_c_returns_what_there_is(model, pairs, tmp_path, capsys):
    def interrupt(progress):
        if progress.documents == 6:
            raise KeyboardInterrupt

    atlas = quiet(model, {"count": COUNTING, "talk": TALK}, folder=tmp_path, progress=interrupt)
    assert atlas.counts["documents"].sum() == 6 and same(g4.open_atlas(tmp_path), atlas)
    assert atlas.promoted is not None
    assert same(quiet(model, {"count": COUNTING, "talk": TALK}, folder=tmp_path), pairs)


def test_an_interrupted_document_counts_nothing(model):
    reader = builder.Builder(model)
    atlas = g4.Atlas.empty(reader.subject, ["x"])
    before = {name: array.copy() for name, array in atlas.counts.arrays.items()}
    steps = reader._add(atlas, "x", list(enumerate(COUNTING)))
    next(steps)
    steps.close()
    assert all(np.array_equal(before[name], atlas.counts[name]) for name in before)
    assert atlas.read == {}


def test_each_label_gets_its_share_and_streams_are_not_read_further(model, pairs):
    taken = []

    def stream():
        for text in COUNTING * 50:
            taken.append(text)
            yield text

    atlas = quiet(model, {"many": stream(), "talk": TALK}, tokens=300)
    tokens = dict(zip(atlas.labels, atlas.counts["tokens"].tolist()))
    assert 150 <= tokens["many"] < 225 and len(taken) < 12


def test_progress_says_tokens_rate_and_time_left(model, pairs, capsys):
    heard = []
    g4.atlas(model, {"count": COUNTING, "talk": TALK}, tokens=200, progress=heard.append)
    assert [p.documents for p in heard] == list(range(2, 2 * len(heard) + 1, 2))
    last = heard[-1]
    assert last.total == 200 and last.rate > 0 and last.tokens >= 150
    assert last.left == pytest.approx((200 - last.tokens) / last.rate)
    assert "tokens/s" in str(last) and " left" in str(last)
    g4.atlas(model, {"count": COUNTING, "talk": TALK}, tokens=100)
    assert "of 100 tokens" in capsys.readouterr().err
    assert build.AtlasProgress(0, 10, "tokens").left != 0
    far = build.AtlasProgress(10, 10 + 7200 * 3, "tokens", 1.0, 3.0)
    assert str(far).endswith("3.0 tokens/s, 2 h 0 min left")


def test_bad_input_is_said(model, tmp_path, monkeypatch):
    file = tmp_path / "a file"
    file.write_text("x")
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe")
    for texts, options, says in (
        ({}, {}, "corpora are given by label"),
        (["a"], {}, "corpora are given by label"),
        ({3: ["a"]}, {}, "a label is a text, not 3"),
        ({"x": []}, {}, "the corpus 'x' has no documents"),
        ({"x": COUNTING, "y": [" "]}, {}, "'y' has no documents: document 0 of 'y' is empty"),
        ({"x": str(tmp_path / "latin.txt")}, {}, "no documents.*not UTF-8.*byte 0"),
        ({"x": COUNTING}, {"tokens": 0}, "an atlas of 0 tokens"),
        ({"x": COUNTING}, {"context": 4}, "pieces of 4 tokens"),
        ({"x": COUNTING}, {"answers": -1}, "answers of -1"),
        ({"x": COUNTING}, {"folder": file}, "cannot be made a folder"),
        ({"x": [[10**6]]}, {}, "no documents.*ids go from 0"),
    ):
        with pytest.raises(StudyError, match=says):
            quiet(model, texts, **options)
    with pytest.raises(StudyError, match="str is no model"):
        g4.atlas("a model", {"x": COUNTING})


def test_documents_that_cannot_be_read_are_skipped_and_said(model):
    nested: list = ["Hi"]
    for _ in range(200):
        nested = [nested]
    bad = [{"role": "user", "content": nested}]
    atlas = quiet(model, {"x": [[10**6], COUNTING[0], bad]})
    assert atlas.counts["documents"].tolist() == [1] and atlas.read == {"x": [[0, 3]]}
    assert [s.split(" cannot")[0] for s in atlas.remarks["x"]] == [
        "document 0 of 'x'", "document 2 of 'x'"
    ]  # fmt: skip


def test_a_model_without_experts_is_told_what_studies_its_heads(checkpoint):
    """And that does it over a corpus: heads that look at the token before are found in texts."""
    model = g4.load(checkpoint("textonly").folder)
    with pytest.raises(StudyError, match=r"no experts.*gemma4_mlx\.head_roles\(model, documents"):
        quiet(model, {"x": [[2, 5, 6]]})
    encode, text = g4.load().tokenizer.encode, model.config.text
    for name in ("dialogues", "languages"):
        texts = map(str, itertools.islice(corpora.starter(name)[name], 3))
        documents = [[i % text.vocab_size for i in encode(said)[:60]] for said in texts]
        roles = g4.head_roles(model, documents)
        assert roles.shape == (text.num_hidden_layers, text.num_attention_heads)
        assert roles.prompts["previous"].tolist() == [3] * text.num_hidden_layers
        alone = g4.head_roles(model, documents[:1]).of("previous")
        trace = g4.trace(model, documents[0], routing=None)
        for head in trace.attention.summaries():
            mass = head["previous"] * 60 / 59  # the first token has none before it
            assert alone[head["layer"], head["head"]] == pytest.approx(mass, abs=1e-4)


def test_a_folder_of_another_model_or_corpus_is_refused(model, tmp_path):
    quiet(model, {"count": COUNTING[:2]}, folder=tmp_path)
    with pytest.raises(StudyError, match="document 1 of the corpus 'count' is another one"):
        quiet(model, {"count": COUNTING[::-1]}, folder=tmp_path)
    with (
        model.intervene(g4.Ablate(layer=1, experts=[2])),
        pytest.raises(StudyError, match="choose another folder"),
    ):
        quiet(model, {"count": COUNTING}, folder=tmp_path)
    path = tmp_path / "atlas.g4atlas"
    path.write_bytes(path.read_bytes().replace(b'"version": "1"', b'"version": "7"'))
    with pytest.raises(StudyError, match="version 7"):
        quiet(model, {"count": COUNTING}, folder=tmp_path)


def test_a_full_disk_is_said_and_loses_nothing_that_was_saved(model, pairs, tmp_path, monkeypatch):
    first = quiet(model, {"count": COUNTING[:4]}, folder=tmp_path)
    from gemma4_mlx import safetensors

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(safetensors, "write", full)
        with pytest.raises(StudyError, match=r"atlas\.g4atlas cannot be written: No space left"):
            quiet(model, {"count": COUNTING}, folder=tmp_path)
    assert same(g4.open_atlas(tmp_path), first)
    assert same(
        quiet(model, {"count": COUNTING}, folder=tmp_path), quiet(model, {"count": COUNTING})
    )


def test_saving_takes_a_bounded_share_of_the_time(model, tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    atlas = g4.Atlas.empty(builder.Builder(model).subject, ["x"])
    saved = []

    def slow(self, folder):
        saved.append(clock[0])
        clock[0] += 10

    monkeypatch.setattr(g4.Atlas, "save", slow)
    run = build._Run(atlas, tmp_path, 100, Teller(None))
    for _ in range(1000):
        clock[0] += 1
        run.after_group()
    assert saved[0] == build.SAVE_EVERY and len(saved) * 10 <= 0.06 * clock[0]


def test_ids_alone_do_for_a_model_without_tokenizer(checkpoint):
    model = g4.load(checkpoint("moe").folder)
    model.tokenizer = None
    rng = np.random.default_rng(0)
    docs = [rng.integers(3, 90, 40).tolist() for _ in range(3)]
    atlas = quiet(model, {"x": [*docs, ModelInputs.of_tokens(docs[0])]})
    assert atlas.counts["documents"].tolist() == [4]
    assert atlas.text(docs[0][0]) == f"<{docs[0][0]}>"
    with pytest.raises(StudyError, match="text needs a tokenizer"):
        quiet(model, {"x": ["text"]})


@pytest.mark.parametrize("place", ["experts", "layers"])
def test_weights_on_disk_give_the_same_atlas(built, place):
    model = g4.load(**{place: "disk"})
    assert same(quiet(model, {"count": COUNTING, "talk": TALK}), built)


def test_outputs_that_are_begun_at_once_are_the_same(model, built, monkeypatch):
    """As those of a long document are, lest all layers' wait for it together."""
    monkeypatch.setattr(reading, "HELD", 0)
    assert same(quiet(model, {"count": COUNTING, "talk": TALK}), built)
