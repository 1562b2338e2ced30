"""Selection, tokens and roles, visibility, and maps that change their resolution."""

import inspect
import tracemalloc

import numpy as np
import pytest

import gemma4_mlx as g4
from gemma4_mlx.errors import Gemma4Error, TraceError
from gemma4_mlx.tracing import (
    Ablate,
    AttentionPlan,
    RoutingPlan,
    Selection,
    Swap,
    Tokens,
    Trace,
    TracePlan,
)
from gemma4_mlx.tracing.data import tiles
from gemma4_mlx.tracing.data.attention import AttentionData
from gemma4_mlx.tracing.data.lens import LensData
from gemma4_mlx.tracing.data.maps import PooledMap, bin_sizes, square
from gemma4_mlx.tracing.data.overviews import bins_of
from gemma4_mlx.tracing.data.ranges import ranges
from gemma4_mlx.tracing.data.tokens import roles_of
from gemma4_mlx.tracing.data.visibility import key_range, longest_block, visible
from gemma4_mlx.tracing.recording.buffers import MappedFile, TokenBuffer


def test_selection_tells_of_real_changes_once():
    selection, told = Selection(layer=2), []
    stop = selection.observe(told.append)
    selection.token = 5
    selection.update(token=5, head=None)
    selection.update(token=6, layer=3)
    assert told == [{"token": (None, 5)}, {"token": (5, 6), "layer": (2, 3)}]
    stop()
    stop()
    selection.clear()
    assert len(told) == 2 and selection.as_dict() == dict.fromkeys(
        ("token", "layer", "head", "expert")
    )
    for wrong in (lambda: selection.update(tile=1), lambda: selection.tile):
        with pytest.raises(AttributeError, match="token, layer, head, expert"):
            wrong()


def test_two_selections_that_copy_each_other_come_to_rest():
    a, b, calls = Selection(), Selection(), []
    a.observe(lambda _: (calls.append("a"), b.update(**a.as_dict())))
    b.observe(lambda _: (calls.append("b"), a.update(**b.as_dict())))
    a.update(token=np.int64(3), expert=1)
    assert a.as_dict() == b.as_dict() and calls == ["a", "b"] and type(a.token) is int


def test_tokens():
    boxes = np.full((4, 4), np.nan)
    boxes[2] = (0, 1, 2, 3)
    times = np.full((4, 2), np.nan)
    times[3] = (0.5, 0.54)
    tokens = Tokens(
        [7, 8, 9, 9], ["a", "ba", "", "b"], [0, 0, 1, 3], None, boxes, times, [-1, -1, 0, 1], "xy"
    )
    assert tokens[2].span == (0, 1, 2, 3) and tokens[2].media == 0 and tokens[0].media is None
    assert np.allclose(tokens[-1].span, (0.5, 0.54)) and tokens[-1].kind == "audio"
    assert [t.index for t in tokens[1:]] == [1, 2, 3] and tokens.text == "abab"
    assert tokens.find("ab") == [slice(0, 2), slice(1, 4)] and tokens.find("z") == []
    four = Tokens(range(5), [*"aaaab"])
    assert four.find("aa") == [slice(0, 2), slice(2, 4)], "occurrences do not overlap"
    assert four.find("ab") == [slice(3, 5)] and four.find("aaaab") == [slice(0, 5)]
    with pytest.raises(IndexError):
        tokens[4]
    with pytest.raises(TraceError, match="empty text"):
        tokens.find("")
    with pytest.raises(TraceError, match="no token kind 'smell'"):
        tokens.of_kind("smell")
    with pytest.raises(TraceError, match="3 texts for 2 tokens"):
        Tokens([1, 2], ["a", "b", "c"])


def test_where_a_token_rises():
    """The first layer of those looked at, counted as the model counts layers."""
    after = np.array([[0.1, 0.6, np.nan], [0.5, 0.2, np.nan], [0.4, 0.7, np.nan]], np.float32)
    ids = np.zeros((3, 3, 1), np.int32)
    lens = LensData((2, 5, 9), (0, 4, 7), ids, np.ones((3, 3, 1), np.float32), after, {0: "a"})
    assert (lens.rises_at(0), lens.rises_at(4), lens.rises_at(7)) == (5, 2, None)
    assert lens.rises_at(0, 0.05) == 2 and lens.rises_at(4, 0.65) == 9
    assert lens.rises_at(0, 0.51) is None
    with pytest.raises(TraceError, match="position 1"):
        lens.rises_at(1)


def test_roles():
    texts = (
        "<bos> <|turn> system \n A <|tool> d <tool|> <turn|> \n <|turn> us er \n hi <|turn> x "
        "<turn|> <|turn> model \n <|channel> think <channel|> yes <|tool_call> f <tool_call|> "
        "<|tool_response> 3 <tool_response|> so <turn|> <|turn> mod"
    ).split(" ")
    plain = texts.index("x") - 1  # a user's text that spells a control token
    special = [t.startswith("<") and i != plain for i, t in enumerate(texts)]
    roles = roles_of(texts, special)
    by_text = dict(zip(texts, roles))
    assert by_text["A"] == "system" and by_text["d"] == "tools" and by_text["<bos>"] == ""
    assert by_text["hi"] == roles[plain] == by_text["x"] == "user"
    assert by_text["think"] == "thinking" and by_text["<channel|>"] == "thinking"
    assert by_text["yes"] == by_text["so"] == "model"
    assert by_text["f"] == "tool call" and by_text["3"] == "tool" and roles[-1] == "mod"
    assert roles_of(["a", "b"], [False, False]) == ["", ""]


@pytest.mark.parametrize("window", [None, 6])
def test_visibility_is_the_models_own_mask(window):
    import mlx.core as mx

    from gemma4_mlx.model.attention import AttentionGeometry

    blocks = np.full(20, -1, np.int32)
    blocks[3:12], blocks[13:15] = 0, 1
    geometry = AttentionGeometry(0, 20, 0, 20, window, mx.array(blocks)[None])
    mine = visible(np.arange(20), np.arange(20), window, blocks)
    assert np.array_equal(mine, np.array(geometry.mask())[0, 0])
    for a, b in ((0, 4), (3, 5), (12, 14), (19, 20)):
        low, high = key_range(a, b, window, blocks)
        seen = np.flatnonzero(mine[a:b].any(0))
        assert low <= seen[0] and high >= seen[-1] + 1
    assert not visible([5], [-2, 25], window, blocks).any()
    assert longest_block(blocks) == 9 and longest_block(None) == 0


@pytest.mark.parametrize("window", [None, 1, 3, 7, 64])
def test_a_map_that_doubles_its_bins_holds_what_a_coarse_one_holds(window):
    """Strips arrive row by row; cells merge exactly, in squares and in bands."""
    n, bins, rng = 90, 8, np.random.default_rng(0)
    weights = rng.random((2, n, n), dtype=np.float32)
    i, j = np.arange(n)[:, None], np.arange(n)[None]
    weights *= (j <= i) & (j > i - (window or n))
    growing = PooledMap(2, bins, 1, window)
    for t in range(n):
        growing.make_room(t + 1)
        w = growing.width
        low = 0 if window is None else max(0, t - window + 1) // w * w
        high = -(-(t + 1) // w) * w
        row = np.pad(weights[:, t], ((0, 0), (0, 30)))[:, None, low:high].reshape(2, 1, -1, w)
        growing.add(t, low, row.sum(-1), row.max(-1), {"x": np.full((2, 1), t, np.float32)})
    assert growing.width == 16
    mass, peak = growing.trimmed(n)
    mass, peak = square(mass, growing.back), square(peak, growing.back)
    padded = np.pad(weights, ((0, 0), (0, 6), (0, 6))).reshape(2, 6, 16, 6, 16)
    assert np.abs(mass - padded.sum((2, 4))).max() < 1e-4
    assert np.array_equal(peak, padded.max((2, 4)))
    assert np.array_equal(growing.sums(n)["x"][0], np.add.reduceat(np.arange(n), range(0, n, 16)))
    assert bin_sizes(n, 16).tolist() == [16] * 5 + [10]


@pytest.mark.parametrize("folder", [None, "disk"])
def test_buffers_grow_and_keep(folder, tmp_path):
    file = MappedFile(str(tmp_path)) if folder else None
    other = TokenBuffer((2, 3), np.uint16, 5, file)  # in the same file
    other.put(0, np.full((2, 5, 3), 7, np.uint16))
    buffer = TokenBuffer((3, 2), np.float32, 10, file)
    values = np.random.default_rng(0).random((3, 300, 2), dtype=np.float32)
    for start in range(0, 300, 7):
        buffer.put(start, values[:, start : start + 7])
    assert buffer.n == 300 and np.array_equal(buffer.values, values)
    assert isinstance(buffer.values, np.memmap) == (folder == "disk")
    fewer = buffer.pick([2, 0], file and MappedFile(str(tmp_path)))
    assert np.array_equal(fewer.values, values[[2, 0]]) and (other.values == 7).all()
    fewer.put(300, values[:2, :1])
    assert fewer.n == 301 and np.array_equal(fewer.values[:, 300], values[:2, 0])


@pytest.mark.parametrize(
    "given, said",
    [
        ([], ""),
        ([4, 3], "3, 4"),
        (range(5), "0 to 4"),
        ([0, 1, 2, 7, 9, 10], "0 to 2, 7, 9, 10"),
    ],
)
def test_lists_of_layers_in_sentences(given, said):
    assert ranges(given) == said


def test_every_plan_is_a_public_name():
    for name in ("AttentionPlan", "RoutingPlan", "LensPlan", "ActivationPlan", "TracePlan"):
        assert getattr(g4, name).__name__ == name and name in g4.__all__


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Swap(3), r"Swap takes layer, a, b, \[tokens\]: missing .*'a'"),
        (lambda: Swap(3, 4, 5, 6, 7), r"Swap takes .*: too many positional arguments"),
        (lambda: Ablate(layer=1, expert=2), "Ablate takes layer, experts, .*'experts'"),
        (lambda: AttentionPlan(layer=3), "AttentionPlan takes .*'layer'"),
        (lambda: RoutingPlan(1, 2, 3, 4), "RoutingPlan takes .*: too many"),
        (lambda: TracePlan(1, 2, 3, 4, 5, 6), "TracePlan takes .*: too many"),
        (lambda: Trace(), r"Trace takes tokens, \[routing\].*: missing .*'tokens'"),
        (lambda: Trace("Hello"), r"not a str: gemma4_mlx\.trace\(model, prompt\) makes one"),
    ],
)
def test_wrong_arguments_say_so(make, words):
    with pytest.raises(Gemma4Error, match=words):
        make()


@pytest.mark.parametrize("window", [None, 700])
def test_a_row_and_a_column_of_many_tokens_take_little_memory(window):
    """Neither asks for every key, or every query, as float32 at once: 16 MB here."""
    n, D, query, key = 1 << 15, 128, 30_001, 29_500
    rng = np.random.default_rng(0)
    kept = [(rng.normal(size=(n, D)) / 4).astype(np.float16) for _ in range(2)]
    normaliser = np.full(n, 3, np.float32)
    load = [lambda rows, each=each: each[rows].astype(np.float32) for each in kept]

    tracemalloc.start()
    row = tiles.row_weights(*load, normaliser, query, slice(0, n), window)
    edges = [np.arange(n + 1), np.array([key, key + 1])]
    column = tiles.pooled_weights(*load, normaliser, *edges, window)[:, 0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6

    q, k = (each.astype(np.float32) for each in kept)
    seen = slice(0 if window is None else query - window + 1, query + 1)
    assert np.allclose(row[seen], np.exp(k[seen] @ q[query] - 3), rtol=1e-4)
    assert not row[: seen.start].any() and not row[seen.stop :].any()
    seen = slice(key, n if window is None else key + window)
    assert np.allclose(column[seen], np.exp(q[seen] @ k[key] - 3), rtol=1e-4)
    assert not column[: seen.start].any() and not column[seen.stop :].any()


def test_a_tile_and_where_it_comes_from_have_the_same_defaults():
    tile, source = (
        inspect.signature(method).parameters
        for method in (AttentionData.tile, AttentionData.tile_source)
    )
    assert set(tile) - set(source) == {"statistic"}
    assert all(tile[name].default == parameter.default for name, parameter in source.items())


@pytest.mark.parametrize("seed", range(40))
def test_cells_of_whole_bins_cover_a_span(seed):
    """Counted out: as few bins a cell as give at most so many cells, the first where the span
    begins; or cells of so many tokens, rounded down, at multiples of their size."""
    rng = np.random.default_rng(seed)
    width, n = int(rng.integers(1, 9)), int(rng.integers(2, 200))
    edges = np.append(np.arange(0, n, width), n)
    start = int(rng.integers(0, n - 1))
    span = slice(start, int(rng.integers(start + 1, n + 1)))
    touched = [b for b in range(len(edges) - 1) if edges[b] < span.stop and edges[b + 1] > start]
    cells, cell = int(rng.integers(1, 12)), int(rng.integers(1, 40))
    step = next(s for s in range(1, n + 1) if len(touched[::s]) <= cells)
    assert bins_of(span, cells, None, edges).tolist() == [*touched[::step], touched[-1] + 1]
    step = max(1, cell // width)
    begun = sorted({b // step * step for b in touched})
    end = min(begun[-1] + step, len(edges) - 1)
    assert bins_of(span, cells, cell, edges).tolist() == [*begun, end]


@pytest.mark.parametrize("pool", [np.add, np.maximum])
def test_rows_are_pooled_as_one_by_one(pool):
    rng = np.random.default_rng(0)
    for r, size in [(1, 1), (7, 1), (8, 2), (9, 2), (9, 4), (12, 5), (5, 9)]:
        w = rng.integers(0, 9, (r, 3)).astype(np.float32)
        starts = np.arange(0, r, size)
        if r == 12:
            starts = np.array([0, 1, 7])  # of other lengths
        expected = [pool.reduce(part) for part in np.split(w, starts[1:])]
        assert np.array_equal(tiles._pool_rows(w, starts, pool), expected)
