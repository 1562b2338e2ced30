"""What travels beside MLX's sums: any values and arrays arrive as they are, and nothing else."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gemma4_mlx.errors import ClusterError
from gemma4_mlx.machines.messages import Message

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
ARRAYS = hnp.arrays(
    st.sampled_from([np.float32, np.float16, np.uint8, np.uint16, np.uint32, np.int32, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


@given(
    st.text(max_size=9),
    st.dictionaries(st.text(max_size=5), VALUES, max_size=4),
    st.dictionaries(st.text(max_size=5), ARRAYS, max_size=3),
)
def test_a_message_arrives_as_it_was(what, values, arrays):
    sent = Message(what, values, {name: mx.array(x) for name, x in arrays.items()})
    got = Message.unpacked(sent.packed())
    assert (got.what, got.values) == (what, values)
    assert got.arrays.keys() == arrays.keys()
    for name, x in arrays.items():
        assert got.arrays[name].dtype == mx.array(x).dtype
        assert np.array(got.arrays[name]).tobytes() == x.tobytes()
        assert got.arrays[name].shape == x.shape


def test_bfloat16_arrives_bit_by_bit():
    x = mx.random.normal((3, 5)).astype(mx.bfloat16)
    got = Message.unpacked(Message("x", arrays={"x": x.T}).packed()).arrays["x"]
    assert got.dtype == mx.bfloat16 and mx.array_equal(got, x.T)


@given(st.binary(max_size=60) | st.integers(0, 90).map(lambda n: _packed()[:n]))
def test_other_bytes_are_refused(data):
    if data == _packed():
        return
    with pytest.raises(ClusterError, match="no message"):
        Message.unpacked(data)


def _packed():
    return Message("hidden", {"cache": 3}, {"tokens": mx.arange(4)}).packed()


def test_names_are_told_without_reading_on():
    assert Message.is_named(_packed(), "hidden") and not Message.is_named(_packed(), "hidde")
