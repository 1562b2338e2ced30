"""The traces that stand for released models have their shapes, and numbers that fit."""

import numpy as np
import pytest
import true_shapes


@pytest.mark.parametrize("name", true_shapes.MODELS)
def test_tokens_and_routing(name, reference_dir):
    trace = true_shapes.make_trace(name, 2000, attention=False)
    config = true_shapes.config_of(name)
    assert len(trace) == 2000 and trace.tokens.of_kind("image").sum() == 280
    assert trace.tokens.of_kind("audio").sum() == (750 if name == "E2B" else 0)
    assert {"user", "model", "thinking"} <= set(trace.tokens.roles)
    assert len(trace.tokens.find("harbour is 582")) > 1
    if name == "26B-A4B":
        assert trace.routing.experts.shape == (30, 2000, 8)
        assert ((trace.routing.load() == 0).sum(1) >= 3).all()
        assert np.abs(trace.routing.weights.sum(-1) - 1).max() < 1e-5
    else:
        assert trace.routing is None and not config.text.enable_moe_block


@pytest.mark.slow
@pytest.mark.parametrize("name", true_shapes.MODELS)
def test_attention(name, reference_dir):
    text = true_shapes.config_of(name).text
    attention = true_shapes.make_trace(name, 2000, chunk=1024).attention
    assert len(attention.layers) == text.num_hidden_layers
    for layer in attention.retained:
        assert len(attention.heads(layer)) == text.num_attention_heads
        assert attention.queries(layer, 3, (5, 9)).shape == (4, text.head_dim_of(layer))
        assert abs(attention.row(layer, 5, 1900).sum() - 1) < 1e-4
    assert np.isfinite(attention.summary_map("first")).all()
