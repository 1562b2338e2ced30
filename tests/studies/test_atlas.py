"""An atlas's measures against plain definitions over all tokens, and its merging to the bit."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import LAYERS, VOCABULARY, E, K, concatenated, corpus, trace

from gemma4_mlx.errors import StudyError
from gemma4_mlx.studies import Atlas, open_atlas
from gemma4_mlx.studies.data import contexts as contexts_module
from gemma4_mlx.studies.data.atlas import REMARKS
from gemma4_mlx.studies.data.contexts import FIELDS, KEPT, SORTS
from gemma4_mlx.studies.data.counts import AXES, POSITIONS, UNIT, Subject, state_bytes
from gemma4_mlx.studies.data.documents import TYPES, Documents
from gemma4_mlx.studies.data.statistics import SumTail, false_discovery


def of(traces, **options):
    return Atlas.of(traces, **{"vocabulary": VOCABULARY, **options})


def same(a: Atlas, b: Atlas) -> bool:
    """Whether two atlases are equal to the bit."""
    counts = all(np.array_equal(a.counts[name], b.counts[name]) for name in AXES)
    fields = [(sort, name) for sort in SORTS for name in FIELDS]
    kept = all(
        a.contexts.arrays[sort][name].tobytes() == b.contexts.arrays[sort][name].tobytes()
        for sort, name in fields
    )
    sample = all(a.documents.arrays[n].tobytes() == b.documents.arrays[n].tobytes() for n in TYPES)
    return a.labels == b.labels and counts and kept and sample


@pytest.fixture(scope="module", params=[0, 1])
def known(request):
    rng = np.random.default_rng(request.param)
    scale = rng.uniform(0.5, 2, (len(LAYERS), E)).astype(np.float32)
    traces = corpus(request.param, scale=scale, favourites={1: 5})
    return traces, of(traces), concatenated([t for some in traces.values() for t in some])


def test_loads_are_those_of_all_tokens(known):
    traces, atlas, whole = known
    assert atlas.tokens == whole.n and atlas.labels == ("code", "law", "sums")
    np.testing.assert_allclose(atlas.load(), whole.load())
    np.testing.assert_allclose(atlas.entropy(), whole.entropy())
    np.testing.assert_allclose(atlas.evenness(), whole.entropy() / np.log2(E))
    for label, some in traces.items():
        mine = concatenated(some)
        np.testing.assert_allclose(atlas.load(label), mine.load())
        lift = atlas.lifts().lift[:, atlas.labels.index(label)]
        with np.errstate(divide="ignore"):
            np.testing.assert_allclose(lift, np.log2(mine.load() / whole.load()))


def test_pairs_and_paths_are_those_of_all_tokens(known):
    _, atlas, whole = known
    for i, layer in enumerate(LAYERS):
        together = atlas.coactivation(layer)
        for a, b in itertools.product(range(E), repeat=2):
            here = (whole.experts[i] == a).any(-1)
            expected = (whole.experts[i][here] == b).any(-1).mean() if here.any() else np.nan
            np.testing.assert_allclose(together[a, b], expected)
    for i, layer in enumerate(LAYERS[:-1]):
        paths = atlas.paths(layer)
        for a, b in itertools.product(range(E), repeat=2):
            here = (whole.experts[i] == a).any(-1)
            expected = (whole.experts[i + 1][here] == b).any(-1).mean() if here.any() else np.nan
            np.testing.assert_allclose(paths[a, b], expected)
    with pytest.raises(StudyError, match="last"):
        atlas.paths(LAYERS[-1])


def test_norms_are_means_over_an_experts_tokens(known):
    _, atlas, whole = known
    norm, scaled, plain = atlas.norm(), atlas.reap(), atlas.reap(scaled=False)
    for i, e in itertools.product(range(len(LAYERS)), range(E)):
        here = whole.experts[i] == e
        norms, weights = whole.norms[i][here], whole.weights[i][here]
        gates = whole.gate(LAYERS[i])[here]
        np.testing.assert_allclose(norm[i, e], norms.mean(), rtol=1e-5)
        np.testing.assert_allclose(scaled[i, e], (norms * weights).mean(), rtol=1e-5)
        np.testing.assert_allclose(plain[i, e], (norms * gates).mean(), rtol=1e-4)
        assert atlas.counts["largest_norm"][i, e] == norms.max()


def test_groups_are_those_of_all_tokens(known):
    traces, atlas, whole = known
    for by in ("kind", "role"):
        mine, theirs = atlas.by(by), whole.specialisation(by)
        loads = dict(zip(mine.groups.names, np.moveaxis(mine.load, 1, 0)))
        named = {"": "text", "model": "answer", "pirate": "other", "none": "text"}
        for g, name in enumerate(theirs.groups.names):
            if by == "kind" and name != "image":
                continue  # the trace tells words from numbers
            np.testing.assert_allclose(loads[named.get(name, name)], theirs.load[:, g])
    assert set(atlas.by("role").groups.names) == {
        "text", "system", "user", "thinking", "answer", "other"
    }  # fmt: skip
    places = np.concatenate([np.arange(t.n) for some in traces.values() for t in some])
    for g, name in enumerate(atlas.by("position").groups.names):
        first, last = (name.split("-") * 2)[:2]
        inside = (places >= int(first)) & (places <= int(last))
        np.testing.assert_allclose(atlas.by("position").load[:, g], whole.load(tokens=inside))
    assert POSITIONS[:5] == ("0", "1", "2-3", "4-7", "8-15")
    np.testing.assert_allclose(atlas.by("label").load[:, 1], atlas.load("law"))
    with pytest.raises(StudyError, match="position, role, kind"):
        atlas.by("weather")


@pytest.mark.parametrize("name", ["input", "next"])
def test_vocabularies_are_those_of_all_tokens(known, name):
    traces, atlas, _ = known
    every = [t for some in traces.values() for t in some]
    if name == "next":
        ids = np.concatenate([t.tokens.ids[1:] for t in every])
        experts = np.concatenate([t.routing.experts[:, :-1] for t in every], axis=1)
    else:
        ids = np.concatenate([t.tokens.ids for t in every])
        experts = np.concatenate([t.routing.experts for t in every], axis=1)
    found = atlas.vocabulary(name)
    best = np.zeros((len(LAYERS), VOCABULARY))
    for id in range(VOCABULARY):
        here = experts[:, ids == id]
        assert found.seen[id] == here.shape[1]
        share = np.stack([[(c == e).any(-1).mean() for e in range(E)] for c in here])
        least, most = found.share(id)
        np.testing.assert_allclose(least, share)
        np.testing.assert_allclose(most, share)
        best[:, id] = share.max(axis=1) * here.shape[1]
    np.testing.assert_allclose(found.specialisation(least=1), best.sum(axis=1) / len(ids))
    some, consistent = found.consistency(least=2)
    for id in some[:3]:
        sets = [set(row) for row in experts[0, ids == id].tolist()]
        pairs = [len(a & b) / K for a, b in itertools.combinations(sets, 2)]
        np.testing.assert_allclose(consistent[0, some.tolist().index(id)], np.mean(pairs))


def test_hashed_vocabularies_bound_what_is_true(monkeypatch):
    rng = np.random.default_rng(3)
    monkeypatch.setattr("gemma4_mlx.studies.data.counts.BUCKETS", 16)
    ids = [rng.zipf(1.3, 300) % 1000 for _ in range(10)]
    traces = [trace(rng, 300, ids=i) for i in ids]
    atlas, whole = of({"a": traces}, vocabulary=1000), concatenated(traces)
    found = atlas.vocabulary()
    assert found.counts.shape[-1] == 16 and len(found.known()) >= 1
    for id in np.unique(whole.tokens.ids):
        here = whole.tokens.ids == id
        share = whole.load(tokens=here)
        least, most = found.share(int(id))
        assert (least <= share + 1e-12).all() and (share <= most + 1e-12).all()
    for id in found.known():
        least, most = found.share(int(id))
        assert (most - least).max() <= 1 / 0.9 - 1 + 1e-12


def test_a_planted_router_is_recovered_exactly():
    """Every label, token and path has its expert; the atlas names just those."""
    rng, E_of = np.random.default_rng(0), {"code": 5, "law": 9}
    traces = {}
    for label, expert in E_of.items():
        traces[label] = [trace(rng, 40, norms=False) for _ in range(40)]
        for t in traces[label]:
            # Layer 1: the label's expert. Layer 2: the token's. Layer 4: the one after layer 2's.
            by_token = t.tokens.ids % 4
            t.routing.experts[0] = np.array([expert, 0, 1])
            t.routing.experts[1] = np.stack([by_token, by_token + 4, by_token + 8], axis=-1)
            t.routing.experts[2] = (t.routing.experts[1] + 1) % E
    atlas = of(traces)
    lifts = atlas.lifts()
    for label, expert in E_of.items():
        assert [(r["layer"], r["expert"], r["lift"]) for r in lifts.experts(label)] == [
            (1, expert, 1.0)
        ]
        example = atlas.examples(1, expert)
        assert {c.label for c in example} == {label} and len(example) == 2 * KEPT
    np.testing.assert_array_equal(atlas.vocabulary().specialisation(), [1, 1, 1])
    np.testing.assert_array_equal(atlas.vocabulary().consistency()[1][1:], 1)
    found = atlas.find("t6")
    assert {(r["layer"], r["expert"]) for r in found[:6]} == {
        (2, 2), (2, 6), (2, 10), (4, 3), (4, 7), (4, 11)
    }  # fmt: skip
    assert all(r["share"] == 1 for r in found[:6])
    assert {r["id"] % 4 for r in atlas.vocabulary().top(2, 3)} == {3}
    # Experts 2, 6 and 10 of layer 2 read the same tokens, and so do 3, 7 and 11 of layer 4.
    near = atlas.neighbours(2, 6, 5)
    assert {(r["layer"], r["expert"]) for r in near} == {(2, 2), (2, 10), (4, 3), (4, 7), (4, 11)}
    np.testing.assert_allclose([r["similarity"] for r in near], 1, rtol=1e-5)
    paths = atlas.paths(2)
    expected = [[float((b - a - 1) % 4 == 0 and b != a) for b in range(E)] for a in range(E)]
    np.testing.assert_array_equal(paths, expected)


def test_shuffled_labels_find_nothing():
    """Also where tokens of a document are alike, and documents of a label longer than others."""
    wrong = tests = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        lengths = {"short": 15, "long": 120, "few": 40}
        traces = {
            label: [trace(rng, int(n) + 1, norms=False) for n in rng.poisson(length, count)]
            for (label, length), count in zip(lengths.items(), (60, 30, 12))
        }
        atlas = of(traces)
        wrong += atlas.lifts().found().any()
        tests += 1
        # Tokens as the unit would find plenty.
        load = atlas.load()
        z = (atlas.load("long") - load) / np.sqrt(load * (1 - load) / atlas.tokens)
        assert (np.abs(z) > 5).any()
    assert wrong <= 1, f"{wrong} of {tests} runs found a preference where there is none"


def test_real_preferences_are_found_and_small_ones_left():
    rng = np.random.default_rng(0)
    traces = {
        "code": [trace(rng, 50, {1: 5}, pull=4.0) for _ in range(30)],
        "law": [trace(rng, 50) for _ in range(30)],
    }
    lifts = of(traces).lifts()
    assert [(r["layer"], r["expert"]) for r in lifts.experts("code")] == [(LAYERS[1], 5)]
    assert not lifts.found(floor=2.0).any()
    frame = lifts.to_dataframe()
    assert len(frame) == lifts.lift.size
    row = frame[(frame.layer == LAYERS[1]) & (frame.label == "code") & (frame.expert == 5)]
    assert row.found.item() and row.lift.item() == lifts.lift[1, 0, 5]
    with pytest.raises(StudyError, match=r"poetry.*code, law"):
        lifts.experts("poetry")


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_is_above_what_chance_does(seed):
    """Against 20,000 draws without putting back, of skewed and of even terms."""
    rng = np.random.default_rng(seed)
    x = rng.exponential(size=200) ** (1 + seed) * (rng.random(200) < 0.2 + 0.2 * seed)
    x = x.astype(np.float32)
    m = 10 + 10 * seed
    draws = rng.permuted(np.tile(x, (20_000, 1)), axis=1)[:, :m].sum(axis=1) - m * x.mean()
    for t in np.quantile(draws, [0.001, 0.01, 0.1, 0.9, 0.99, 0.999]):
        (bound,) = SumTail(x[:, None]).chance(m, np.array([t]))
        beyond = ((draws >= t) if t > 0 else (draws <= t)).mean()
        assert beyond <= bound <= 1
        if seed == 0 and t > 0:
            assert bound < 20 * beyond  # and not far above it


def test_false_discoveries_are_corrected_as_the_definition_says():
    p = np.array([0.04, 0.001, np.nan, 0.3, 0.012])
    np.testing.assert_allclose(false_discovery(p), [0.16 / 3, 0.004, np.nan, 0.3, 0.024])
    rng = np.random.default_rng(0)
    p = rng.random(50) ** 3
    q = false_discovery(p)
    for i in range(50):
        expected = min(50 * p[j] / (p <= p[j]).sum() for j in range(50) if p[j] >= p[i])
        assert q[i] == pytest.approx(min(expected, 1))


@settings(max_examples=20)
@given(st.data())
def test_any_split_of_a_corpus_merges_to_the_same_bits(data):
    traces = corpus(7, documents=6)
    documents = [(label, t) for label, some in traces.items() for t in some]
    documents = data.draw(st.permutations(documents))
    parts = data.draw(st.lists(st.integers(0, 3), min_size=18, max_size=18))
    whole = of(traces)
    split = []
    for part in sorted(set(parts)):
        some: dict[str, list] = {}
        for (label, t), where in zip(documents, parts):
            if where == part:
                some.setdefault(label, []).append(t)
        split.append(of(some))
    split = data.draw(st.permutations(split))
    merged = split[0]
    for other in split[1:]:
        merged = merged.merge(other)
    assert same(merged, whole)
    nothing = Atlas.empty(whole.counts.subject, ())
    assert same(merged.merge(nothing), whole) and same(nothing.merge(merged), whole)


def test_contexts_are_the_strongest_and_a_fair_sample(known):
    traces, atlas, _ = known
    offered = []  # (gate, trace, position) of one expert
    for some in traces.values():
        for t in some:
            at, rank = np.nonzero(t.routing.experts[1] == 5)
            gates = t.routing.gate(LAYERS[1])[at, rank]
            offered += [(g, t, a) for g, a in zip(gates.tolist(), at.tolist())]
    found = atlas.examples(LAYERS[1], 5)
    best = {}
    for gate, t, _ in offered:
        best[id(t)] = max(best.get(id(t), 0), gate)
    strongest = [c.gate for c in found if c.sort == "strongest"]
    assert strongest == sorted(best.values(), reverse=True)[:KEPT]
    everywhere = {(t.tokens.texts[a], a) for _, t, a in offered}
    sampled = [c for c in found if c.sort == "sampled"]
    assert len(sampled) == KEPT
    assert all((c.text, c.position) in everywhere for c in sampled)
    for c in found:
        assert c.before.count("t") <= 20 and c.after.count("t") <= 20
    owner = next(t for g, t, a in offered if g == strongest[0])
    context = found[0]
    at = context.position
    assert context.before == "".join(owner.tokens.texts[max(0, at - 20) : at])
    assert context.after == "".join(owner.tokens.texts[at + 1 : at + 21])


def test_the_sample_is_uniform_over_an_experts_tokens():
    """Over many corpora, each of one document of 40 tokens, 8 of all places are kept."""
    rng, hits = np.random.default_rng(0), np.zeros(40)
    for _ in range(150):
        t = trace(rng, 40, norms=False)
        t.routing.experts[:] = [0, 1, 2]
        kept = of({"a": [t]}).contexts.arrays["sampled"]["position"][0]
        hits[kept] += 1
    expected = 150 * KEPT / 40
    chi2 = ((hits - expected) ** 2 / expected).sum()
    assert chi2 < 65  # 39 degrees of freedom: one in two hundred would exceed it


def test_a_patchs_context_has_its_picture(monkeypatch):
    rng = np.random.default_rng(1)
    t = trace(rng, 30, norms=False)
    picture = rng.integers(0, 255, (96, 192, 3)).astype(np.uint8)
    t.media = [picture]
    t.tokens.media[10:14] = 0
    t.tokens.boxes = np.full((30, 4), np.nan, np.float32)
    t.tokens.boxes[10:14] = [[48 * i, 0, 48 * i + 48, 96] for i in range(4)]
    t.routing.experts[0] = [3, 4, 5]
    atlas = of({"seen": [t]})
    contexts = {c.position: c for c in atlas.examples(LAYERS[0], 3)}
    inside = [c for at, c in contexts.items() if 10 <= at < 14]
    outside = [c for at, c in contexts.items() if not 10 <= at < 14]
    assert outside and all(c.picture is None and c.box is None for c in outside)
    for c in inside:
        assert c.picture.shape == (24, 48, 3)
        np.testing.assert_allclose(c.picture[0, 0], picture[:4, :4].mean((0, 1)), atol=0.51)
        assert c.box == ((c.position - 10) / 4, 0, (c.position - 9) / 4, 1)
    # Pictures that no context shows any longer are forgotten.
    atlas.contexts.arrays["sampled"]["medium"][:] = 0
    atlas.contexts.arrays["strongest"]["medium"][:] = 0
    atlas.contexts.prune()
    assert atlas.contexts.pictures == {}


def test_super_experts_stand_out():
    traces = corpus(2, documents=4)
    traces["code"][0].routing.norms[2] *= np.where(traces["code"][0].routing.experts[2] == 7, 50, 1)
    assert of(traces).super_experts(percentile=95)[0] == (LAYERS[2], 7)
    assert len(of(traces).super_experts()) <= 1
    with pytest.raises(StudyError, match="norms were not recorded"):
        of(corpus(2, documents=2, norms=False)).super_experts()


def test_an_atlas_is_saved_and_opened(known, tmp_path):
    _, atlas, _ = known
    atlas.read = {"code": [[0, 20]]}
    atlas.marks = {"code": [19, "ab"]}
    atlas.remark("law", "a.txt is not UTF-8: skipped")
    for i in range(200):
        atlas.remark("law", f"document {i % 150}: split")
    assert len(atlas.remarks["law"]) == 101 and atlas.remarks["law"][-1] == "and 51 more"
    path = atlas.save(tmp_path / "a.g4atlas")
    opened = open_atlas(path)
    assert same(opened, atlas) and opened.texts == atlas.texts
    assert opened.read == atlas.read and opened.remarks == atlas.remarks
    assert opened.marks == atlas.marks
    assert repr(opened) == repr(atlas) and "20 documents" in repr(atlas)
    np.testing.assert_array_equal(opened.reap(False), atlas.reap(False))
    assert [c.text for c in opened.examples(1, 2)] == [c.text for c in atlas.examples(1, 2)]
    assert atlas.save(tmp_path) == tmp_path / "atlas.g4atlas"
    assert same(open_atlas(tmp_path), atlas)
    assert same(opened.merge(opened), atlas.merge(atlas))


def test_damaged_and_foreign_files_are_refused(known, tmp_path):
    _, atlas, _ = known
    path = atlas.save(tmp_path / "a.g4atlas")
    whole = path.read_bytes()
    for cut in (0, 7, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(StudyError):
            open_atlas(path)
    path.write_bytes(whole.replace(b'"version": "1"', b'"version": "9"'))
    with pytest.raises(StudyError, match=r"version 9.*update gemma4-mlx"):
        open_atlas(path)
    with pytest.raises(StudyError, match="cannot be opened"):
        open_atlas(tmp_path / "none.g4atlas")
    with pytest.raises(StudyError, match="cannot be written"):
        atlas.save(tmp_path / "no" / "such" / "a.g4atlas")


def test_what_does_not_fit_is_refused_and_counts_nothing():
    traces = corpus(0, documents=2)
    atlas, before = of(traces), of(traces)
    other = trace(np.random.default_rng(0), 5)
    other.model = {"fingerprint": "another", "source": "another/model"}
    bare = trace(np.random.default_rng(0), 5)
    bare.routing = None
    broken = trace(np.random.default_rng(0), 5)
    broken.routing.norms[1, 2, 0] = np.nan
    changed = trace(np.random.default_rng(0), 5)
    changed.interventions = ("Ablate(layer=1)",)
    far = trace(np.random.default_rng(0), 5, ids=np.full(5, VOCABULARY))
    from gemma4_mlx.studies.data.pieces import Piece

    for wrong, says in (
        (other, "another/model"), (bare, "without routing"), (broken, "layer 2 is not finite"),
        (changed, "Ablate"), (far, f"token {VOCABULARY}"),
    ):  # fmt: skip
        with pytest.raises(StudyError, match=says):
            atlas.add("code", [Piece(traces["code"][0]), Piece(wrong)])
    with pytest.raises(StudyError, match="no label 'poetry'"):
        atlas.add("poetry", [Piece(traces["code"][0])])
    assert same(atlas, before)
    smaller = of(traces, vocabulary=VOCABULARY + 1)
    with pytest.raises(StudyError, match="cannot be merged"):
        atlas.merge(smaller)
    with pytest.raises(StudyError, match="at least one trace"):
        Atlas.of({"code": []})


def test_questions_about_what_is_not_there_are_answered_in_words(known):
    _, atlas, _ = known
    for ask, says in (
        (lambda: atlas.load("poetry"), "no label 'poetry'.*code, law, sums"),
        (lambda: atlas.coactivation(3), "layer 3 is not in this atlas, which has 1, 2, 4"),
        (lambda: atlas.examples(1, E), f"experts 0 to {E - 1}"),
        (lambda: atlas.find("zebra"), "no token"),
        (lambda: atlas.vocabulary("spoken"), "input, next, predicted"),
        (lambda: atlas.early_recall(), "early routing was not recorded"),
        (lambda: atlas.early_recall(0), "number from 1"),
    ):
        with pytest.raises(StudyError, match=says):
            ask()


def test_neighbours_read_similar_tokens(known):
    _, atlas, whole = known
    reads = [
        [np.bincount(whole.tokens.ids[(c == e).any(-1)], minlength=VOCABULARY) for e in range(E)]
        for c in whole.experts
    ]
    p = np.array(reads) / np.maximum(np.sum(reads, axis=-1, keepdims=True), 1)
    for row in atlas.neighbours(LAYERS[1], 5, 100):
        other = p[LAYERS.index(row["layer"]), row["expert"]]
        assert row["similarity"] == pytest.approx(np.sqrt(p[1, 5] * other).sum(), rel=1e-4)
    found = [r["similarity"] for r in atlas.neighbours(LAYERS[1], 5, 100)]
    assert found == sorted(found, reverse=True)
    assert len(found) == sum(1 for layer in reads for r in layer if r.sum()) - 1


@pytest.mark.parametrize("library", ["pandas", "polars", "arrow"])
def test_frames(known, library):
    _, atlas, _ = known
    frame = atlas.to_dataframe(library)
    loads = np.asarray(frame["load"]).reshape(len(LAYERS), E)
    np.testing.assert_allclose(loads, atlas.load())
    names = frame.column_names if library == "arrow" else list(frame.columns)
    assert {"reap", "lift of code", "found for sums"} <= set(names)


def test_the_stated_size_is_that_of_the_arrays(known):
    _, atlas, _ = known
    sizes = [array.nbytes for array in atlas.counts.arrays.values()]
    assert state_bytes(atlas.counts.subject, 3) == sum(sizes)
    big = Subject("", tuple(range(30)), 128, 8, 262_144)
    assert round(state_bytes(big, 8) / 2**20) == 195
    kept = Documents(big, "abcdefgh").arrays
    assert round(sum(array.nbytes for array in kept.values()) / 2**20) == 30
    with_written = Subject("", tuple(range(30)), 128, 8, 262_144, hidden=2816)
    assert round((state_bytes(with_written, 8) - state_bytes(big, 8)) / 2**20) == 82
    slots = 2 * KEPT * 30 * 128
    assert slots * (8 * 3 + 4 * 2 + 2 + 16 + 41 * 4) / 2**20 < 13
    assert UNIT == 2**20 and contexts_module.AROUND == 20


def test_remarks_are_bounded_and_counted():
    parts = [Atlas.empty(Subject("", (0,), 4, 2, 10), ["x"]) for _ in range(2)]
    for number, part in enumerate(parts):
        for i in range(REMARKS + 20):
            part.remark("x", f"document {number}-{i} is empty: skipped")
            part.remark("x", "document 3 is odd")
        assert len(part.remarks["x"]) == REMARKS + 1
        assert part.remarks["x"][-1] == "and 21 more"
    merged = parts[0].merge(parts[1]).remarks["x"]
    # The one that stands in both is one.
    assert len(merged) == REMARKS + 1 and merged[-1] == f"and {21 + 21 + REMARKS - 1} more"
