"""Towers against themselves in float32 on the CPU, and the layers on a prompt with a picture."""

from collections.abc import Iterator

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from ..processing.audio import load_audio
from ..processing.image import load_image
from ..processing.inputs import expand
from . import plain
from .layers import Probe, compared
from .report import Finding
from .weights import Weights


def findings(model, weights: Weights, dtype: str) -> Iterator[Finding]:
    config, media = model.config, {}
    if config.vision is not None:
        media["vision"] = load_image(_picture(), model, name="verify")
    if config.audio is not None:
        media["audio"] = load_audio(_sound(), model, rate=16000, name="verify")
    for kind, medium in media.items():
        yield _tower(model, weights, dtype, kind, medium)
    if "vision" in media:
        yield from _prompt(model, weights, dtype, media["vision"])


def _tower(model, weights: Weights, dtype: str, kind: str, medium) -> Finding:
    """The model's own soft tokens against those of float32 copies of its modules."""
    if kind == "vision":
        names = ["vision_embedder" if model.config.unified else "vision_tower", "embed_vision"]
        values, places = mx.array(medium.patches), medium.positions
        fast = model.encode_image(values, places)
    else:
        names = ["embed_audio"] if model.config.unified else ["audio_tower", "embed_audio"]
        values, places = mx.array(medium.mel), None
        fast = model.encode_audio(values)
    mx.eval(fast)
    with mx.stream(mx.cpu):
        results = [np.array(fast.astype(mx.float32))]
        for noise in (0.0, 2 * plain.UNIT[dtype]):
            x, first = values.astype(mx.float32), True
            for name in names:
                module = _copy(getattr(model, name), name, weights, noise)
                x = module(x, places) if first and places is not None else module(x)
                first = False
            results.append(np.array(x))
    return compared(*results, plain.UNIT[dtype], "media", None, f"{kind} tower")


def _copy(module, name: str, weights: Weights, noise: float):
    """A module of the same kind with float32 weights; with ``noise``, each a little wrong, which
    does about what rounding every result does."""
    rng = np.random.default_rng(0)
    if name.startswith("embed_"):
        rows, width = weights(f"{name}.embedding_projection.weight").shape
        copy = type(module)(width, rows, module.eps)
    else:
        copy = type(module)(module.config)
    values = []
    for path, _ in tree_flatten(copy.parameters()):
        value = weights(f"{name}.{path}").astype(np.float32)
        if value.ndim >= 2:
            value = value * (1 + noise * rng.standard_normal(value.shape)).astype(np.float32)
        values.append((path, mx.array(value)))
    copy.update(tree_unflatten(values))
    return copy.eval()


def _prompt(model, weights: Weights, dtype: str, medium) -> Iterator[Finding]:
    text, around = model.config.text, np.random.default_rng(1)
    words = around.integers(5, text.vocab_size - 1, 40)
    soft = set(model.config.soft_token_ids)
    words = [int(w) for w in words if w not in soft]
    ids = [text.bos_token_id, *words[:20], model.config.image_token_id, *words[20:]]
    inputs = expand(ids, [medium], model.config)
    features = model.encode_image(mx.array(medium.patches), medium.positions)
    probe = Probe(model, weights, "with a picture", dtype)
    with model.observe(probe):
        mx.eval(model.hidden(mx.array(inputs.tokens)[None], None, features))
    yield from probe.findings


def _picture() -> np.ndarray:
    """Two gradients and a disk, (96, 128, 3) uint8."""
    y, x = np.mgrid[:96, :128]
    picture = np.stack([2 * x, 2 * y, 255 - x - y], -1)
    picture[(x - 50) ** 2 + (y - 40) ** 2 < 600] = (250, 240, 20)
    return picture.clip(0, 255).astype(np.uint8)


def _sound() -> np.ndarray:
    """A second of a tone that rises, (16000,) float32."""
    t = np.arange(16000) / 16000
    return (0.4 * np.sin(2 * np.pi * (300 * t + 400 * t * t))).astype(np.float32)
