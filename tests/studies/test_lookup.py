"""Looking experts up: by token, by kind, by likeness; and one's card, against plain sums."""

import numpy as np
import pytest
from made import LAYERS, E, K, concatenated, corpus

from gemma4_mlx.errors import StudyError
from gemma4_mlx.studies import Atlas
from gemma4_mlx.studies.data.counts import Subject
from gemma4_mlx.studies.data.lookup import Lookup

TEXTS = [" return", "return", " 42", "7", "\n", " день", "+", "!", "re", "turn"]


@pytest.fixture(scope="module")
def known():
    traces = corpus(
        3, documents=15, scale=np.linspace(0.5, 2, E * 3, dtype=np.float32).reshape(3, E)
    )
    atlas = Atlas.of(traces)
    atlas.texts = {id: TEXTS[id] if id < len(TEXTS) else f"t{id}" for id in atlas.texts}
    atlas.promoted = np.tile(np.arange(10, dtype=np.int32), (3, E, 1))
    atlas.promoted[..., -1] = -1
    return atlas, concatenated([t for some in traces.values() for t in some]), traces


def test_tokens_of_a_text(known):
    lookup = Lookup(known[0])
    assert sorted(lookup.tokens("Return ")) == [0, 1]  # equal but for blanks and case
    assert set(lookup.tokens("tur")) == {0, 1, 9}  # nothing is equal: within
    assert lookup.tokens(" return7\n") == [0, 3, 4]  # nothing has it: the longest, from the start
    assert lookup.tokens("\n") == [4]
    with pytest.raises(StudyError, match=r"no token of this atlas \(input\) has 'zebra'"):
        lookup.tokens("zebra")
    with pytest.raises(StudyError, match="no text"):
        lookup.tokens("")


def test_kinds_of_tokens(known):
    atlas, together, _ = known
    kinds = Lookup(atlas).kinds()
    assert (
        sorted(kinds["numbers"]) == [2, 3] and kinds["Cyrillic"] == [5] and kinds["blanks"] == [4]
    )
    assert kinds["symbols"] == [6] and kinds["punctuation"] == [7]
    assert next(iter(kinds)) == "Latin"  # most occurrences first
    digits = np.isin(together.tokens.ids, [2, 3])
    for row in atlas.find(kind="numbers"):
        i = LAYERS.index(row["layer"])
        mine = (together.experts[i][digits] == row["expert"]).any(axis=1)
        load = (together.experts[i] == row["expert"]).any(axis=1).mean()
        assert row["count"] == mine.sum() and row["lift"] == pytest.approx(mine.mean() / load)
    following = np.flatnonzero(np.isin(together.tokens.ids, [2, 3]))
    assert atlas.find(kind="numbers", vocabulary="next")[0]["count"] <= len(following) * 3
    with pytest.raises(StudyError, match=r"kind 'Runic'; there are Latin"):
        atlas.find(kind="Runic")
    for wrong in ({}, {"text": "a", "kind": "numbers"}):
        with pytest.raises(StudyError, match="either a text or a kind"):
            atlas.find(**wrong)


def test_tokens_of_a_large_vocabulary_are_counted_where_they_are_known():
    """Of 60,000 ids in 4,096 buckets: frequent ids tell; rare ones beside them do not."""
    size = 60_000
    atlas = Atlas.empty(Subject("planted", LAYERS, E, K, size), ["a"])
    ids, buckets = np.arange(size), atlas.counts.subject.bucket(np.arange(size))
    digits = np.unique(buckets, return_index=True)[1][:20]  # one of each bucket
    rare = np.flatnonzero((buckets == buckets[digits[0]]) & (ids != digits[0]))[0]
    common = np.isin(buckets, buckets[digits[10:]]) & ~np.isin(ids, digits)
    seen, counts = atlas.counts["input_seen"], atlas.counts["input_counts"]
    seen[digits], seen[rare], seen[common] = 100, 3, 40
    counts[1, 5, buckets[digits]] = 90  # nine in ten of the digits' tokens
    counts[1, 7, buckets[rare]] = 3
    found = Lookup(atlas).vocabulary("input")
    among = found.among(digits)
    assert among.counted == pytest.approx(0.5), "the other half is hidden by other tokens"
    assert among.count[1, 5] == 10 * 90 - 3 and among.share[1, 5] == pytest.approx(0.897)
    assert found.experts(digits)[0]["expert"] == 5
    hidden = found.among([rare])
    assert hidden.counted == 1 and not hidden.count.any() and not found.experts([rare])


def test_experts_are_alike_by_labels(known):
    atlas, _, traces = known
    load = np.stack([concatenated(some).load() for _, some in sorted(traces.items())], axis=-1)
    p = load / load.sum(axis=-1, keepdims=True)
    here = (1, 5)
    similar = np.sqrt(p * p[here]).sum(axis=-1)
    np.testing.assert_allclose(Lookup(atlas).similarity(LAYERS[1], 5, "labels"), similar)
    rows = atlas.neighbours(LAYERS[1], 5, 4, by="labels")
    similar[here] = -1
    i, e = np.unravel_index(similar.argmax(), similar.shape)
    assert (rows[0]["layer"], rows[0]["expert"]) == (LAYERS[i], e) and len(rows) == 4
    with pytest.raises(StudyError, match="tokens or labels, not by 'name'"):
        atlas.neighbours(LAYERS[1], 5, by="name")


def test_a_card_against_plain_sums(known):
    atlas, together, _ = known
    for i, layer in enumerate(LAYERS):
        for e in (0, 5):
            card = atlas.card(layer, e, n=E)
            mine = (together.experts[i] == e).any(axis=1)
            assert card["tokens"] == mine.sum()
            norms = together.norms[i][together.experts[i] == e]
            assert card["norm"] == pytest.approx(norms.mean(), rel=1e-5)
            assert card["scale"] == pytest.approx(together.scale[i, e])
            for name, there in (("before", i - 1), ("companions", i), ("after", i + 1)):
                if not 0 <= there < len(LAYERS):
                    assert card[name] == []
                    continue
                for row in card[name]:
                    theirs = (together.experts[there] == row["expert"]).any(axis=1)
                    if name == "companions":
                        assert row["share"] == pytest.approx(theirs[mine].mean())
                        assert row["expert"] != e
                    assert row["lift"] == pytest.approx(row["share"] / theirs.mean())
                score = [r["share"] * np.log2(r["lift"]) for r in card[name]]
                assert score == sorted(score, reverse=True) and all(s > 0 for s in score)
            assert card["promoted"] == [atlas.text(id) for id in range(9)]
            assert card["suppressed"] == []
            assert card["contexts"] == atlas.examples(layer, e)
            assert all(row["text"] == atlas.text(row["id"]) for row in card["input"])


def test_paths_before_and_after_are_two_sides_of_one(known):
    """Of all tokens of both, as many came from a to b as went from a on to b."""
    atlas, _, _ = known
    there = {r["expert"]: r["share"] for r in atlas.card(LAYERS[0], 3, n=E)["after"]}
    for expert, share in there.items():
        back = {r["expert"]: r["share"] for r in atlas.card(LAYERS[1], expert, n=E)["before"]}
        tokens = atlas.counts.all_counts
        assert back[3] * tokens[1, expert] == pytest.approx(share * tokens[0, 3])


def test_an_unused_expert_and_no_experts_of_that_number():
    atlas = Atlas.empty(Subject("", (0,), E, K, 9), ["a"])
    card = atlas.card(0, 1)
    assert card["tokens"] == 0 and card["norm"] is None and card["companions"] == []
    assert not atlas.neighbours(0, 1) and not atlas.neighbours(0, 1, by="labels")
    for layer, expert, says in ((7, 0, "layer 7"), (0, E, f"expert {E}")):
        with pytest.raises(StudyError, match=says):
            atlas.card(layer, expert)
