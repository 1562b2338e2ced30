"""The parts of all ranks are the whole, for any shape of the family and any number of ranks."""

import itertools
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma4_mlx.checkpoints.inventory import tensors
from gemma4_mlx.checkpoints.packing import Packing, choose
from gemma4_mlx.config import Gemma4Config
from gemma4_mlx.errors import ClusterError
from gemma4_mlx.model.shares import Shares, evenly, heads_of
from gemma4_mlx.model.stages import Stages, layer_ranges

S, F = "sliding_attention", "full_attention"


@given(st.integers(0, 500), st.integers(1, 9), st.integers(1, 70))
def test_stretches_join_to_the_whole_and_are_even(count, size, unit):
    parts = [evenly(count, rank, size, unit) for rank in range(size)]
    assert [i for part in parts for i in part] == list(range(count))
    lengths = [math.ceil(len(part) / unit) for part in parts]
    assert max(lengths) - min(lengths) <= 1
    assert all(part.start % unit == 0 or part.start == count for part in parts)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8))
def test_heads_share_keys_and_values_as_before(groups, group, size):
    heads = groups * group
    if size > heads:
        return
    seen = []
    for rank in range(size):
        own, kv = heads_of(heads, groups, rank, size)
        seen += own
        if not own:
            continue
        # The local rule, head i uses KV head i // (heads / kv heads), gives the same KV head.
        local = len(own) // len(kv)
        assert len(own) == local * len(kv)
        assert [kv[i // local] for i in range(len(own))] == [head // group for head in own]
    assert seen == list(range(heads))


def text_config(**changes):
    config = dict(
        model_type="gemma4_text",
        vocab_size=331,
        vocab_size_per_layer_input=331,
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=4,
        layer_types=[S, F, S, F],
        num_attention_heads=4,
        num_key_value_heads=2,
        num_global_key_value_heads=1,
        attention_k_eq_v=True,
        head_dim=32,
        global_head_dim=64,
        sliding_window=16,
        num_kv_shared_layers=2,
        use_double_wide_mlp=True,
        hidden_size_per_layer_input=64,
        enable_moe_block=True,
        num_experts=7,
        top_k_experts=2,
        moe_intermediate_size=64,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        rope_parameters={
            F: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
            S: {"rope_type": "default", "rope_theta": 1e4},
        },
    )
    return Gemma4Config.from_dict(config | changes)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("group_size", [1, 32, 64])
def test_parts_of_all_ranks_are_the_matrix(size, group_size):
    config = text_config()
    packing = Packing(4, group_size) if group_size > 1 else None
    packed = choose(tensors(config), packing)

    def groups(path):
        return packed[path].group_size if path in packed else 1

    ranks = [Shares(config.text, rank, size, groups) for rank in range(size)]
    for name, tensor in tensors(config).items():
        path = name.removesuffix(".weight")
        parts = [shares.part(path) for shares in ranks]
        if parts[0] is None:
            assert parts == [None] * size
            continue
        axis, whole = parts[0].axis, tensor.shape[parts[0].axis]
        owned = [range(part.start, part.stop) for part in parts]
        assert {(part.axis, part.whole) for part in parts} == {(axis, whole)}
        if ".k_proj" in name or ".v_proj" in name:  # those of too few heads are on several ranks
            assert set().union(*owned) == set(range(whole))
        else:
            assert [i for part in owned for i in part] == list(range(whole))
        if axis == -1 and path in packed:
            for shape in packed[path].shapes(tensor.shape).values():
                cuts = [part.within(shape[-1]) for part in parts]
                assert [a for a, _ in cuts[1:]] == [b for _, b in cuts[:-1]]
                assert all(a * whole == part.start * shape[-1] for part, (a, _) in zip(parts, cuts))


def test_heads_that_a_group_of_scales_would_be_cut_in_are_everywhere():
    config = text_config(num_attention_heads=6, num_key_value_heads=2)
    shares = Shares(config.text, 1, 2, lambda path: 64)
    assert not shares.divides_heads(0) and shares.divides_heads(1)  # 3 heads of 32, of 64
    assert shares.heads(0) == (range(6), range(2))
    assert shares.part("language_model.model.layers.0.self_attn.o_proj") is None


def test_more_machines_than_heads_are_refused():
    with pytest.raises(ClusterError, match="5 machines for 4 attention heads"):
        Shares(text_config().text, 0, 5, lambda path: 1)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 20), st.data())
def test_layers_go_where_there_is_room(sizes, first, data):
    room = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=len(sizes)))
    ranges = layer_ranges(sizes, first, room)
    assert [i for own in ranges for i in own] == list(range(len(sizes)))
    assert all(ranges)

    def fullest(ranges):
        used = [sum(sizes[i] for i in own) + (rank == 0) * first for rank, own in enumerate(ranges)]
        return max(a / b for a, b in zip(used, room))

    cuts = itertools.combinations(range(1, len(sizes)), len(room) - 1)
    every = ([range(a, b) for a, b in pairwise([0, *cut, len(sizes)])] for cut in cuts)
    assert fullest(ranges) <= min(map(fullest, every)) * (1 + 1e-9)


def test_more_machines_than_layers_are_refused():
    with pytest.raises(ClusterError, match="3 machines for 2 layers"):
        layer_ranges([1, 1], 0, [1, 1, 1])


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_every_tensor_is_at_its_stage(cut):
    config = text_config()
    stages = [
        Stages(config.text, rank, [range(cut), range(cut, 4)], lambda path: 1) for rank in (0, 1)
    ]
    for name, tensor in tensors(config).items():
        path = name.removesuffix(".weight")
        owners = [each.rank for each in stages if each.has(name)]
        parts = [each.part(path) for each in stages]
        if parts[0] is not None:  # columns of the per-layer table, rows of its projection
            assert owners == [0, 1] and parts[0].stop == parts[1].start
            assert parts[1].stop == parts[0].whole == tensor.shape[parts[0].axis]
        elif ".layers." in name and "per_expert_scale" not in name:
            assert owners == [stages[0].owner(int(name.split(".")[3]))]
        else:
            assert 0 in owners
    # Layers 2 and 3 use what 0 and 1 made: each goes on if it was made before the cut.
    for layer in (0, 1):
        assert stages[0].sends_on(layer) == stages[1].receives(layer)
        assert stages[0].sends_on(layer) == (layer < cut and cut <= layer + 2)
