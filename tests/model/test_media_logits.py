"""Prompts that mix text, pictures, sounds and videos, against transformers: whole, in chunks,
over two turns. Everything goes the way it goes in use: loaders, expand, encode_media, model."""

import mlx.core as mx
import numpy as np
import pytest
from media_reference import arrays, clip, folder, mixed_prompt, picture

import gemma4_mlx as g4
from gemma4_mlx.processing.audio import load_audio
from gemma4_mlx.processing.image import load_image
from gemma4_mlx.processing.inputs import MediaCache, encode_media, expand
from gemma4_mlx.processing.video import load_video

pytestmark = pytest.mark.float32

NAMES = ["mm", "dense31", "moe", "everything"]
TOLERANCE = 1e-4  # of the largest logit


def agree(ours, theirs):
    assert ours.shape == theirs.shape
    assert np.abs(np.array(ours) - theirs).max() / np.abs(theirs).max() < TOLERANCE


@pytest.mark.parametrize("name", ["mm", "moe"])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_towers_compute_in_the_models_type(name, dtype, checkpoint, monkeypatch):
    """Norms aside, which may compute in float32, every part gives what the weights are."""
    model = g4.load(checkpoint(name).folder, dtype=dtype)
    towers = {"vision": model.vision_tower, "audio": getattr(model, "audio_tower", None)}
    seen, parts = {}, [m for tower in towers.values() if tower for m in tower.modules()]

    def noted(kind, call):
        def wrapper(self, *arguments, **options):
            out = call(self, *arguments, **options)
            seen.setdefault(kind.__name__, set()).add(out.dtype)
            return out

        return wrapper

    for kind in {type(part) for part in parts if "Norm" not in type(part).__name__}:
        monkeypatch.setattr(kind, "__call__", noted(kind, kind.__call__))
    n = np.arange(36)
    positions = np.stack([n % 6, n // 6], axis=-1).astype(np.int32)
    patches = mx.random.uniform(
        shape=(36, model.vision_tower.patch_embedder.input_proj.weight.shape[1])
    )
    assert model.encode_image(patches, positions).dtype == dtype
    if towers["audio"] is not None:
        assert model.encode_audio(mx.random.normal((40, 128))).dtype == dtype
    assert len(seen) > 3 and all(found == {dtype} for found in seen.values()), seen


@pytest.fixture(scope="module")
def mixed(checkpoint):
    """``mixed(name)``: (model, inputs, position where turn 1 ends, transformers' logits)."""
    made = {}

    def get(name):
        if name not in made:
            model = g4.load(checkpoint(name).folder)
            reference = {
                key.removesuffix(f"_{name}"): value
                for key, value in arrays("mixed").items()
                if key.endswith(f"_{name}")
            }
            made[name] = (model, *inputs_of(model, reference), reference["logits"])
        return made[name]

    return get


def inputs_of(model, reference):
    """The prompt's inputs, made from placeholders and media, and the end of its first turn."""
    config, media, tokens = model.config, [], []
    turns = [list(turn) for turn in mixed_prompt()]
    texts = iter(_texts(reference["ids"], config))
    for turn in turns:
        for part in turn:
            if isinstance(part, int):
                tokens += [next(texts) for _ in range(part)]
            elif part[0] == "image":
                media.append(load_image(picture(*part[1]), model, budget=70))
                tokens.append(config.image_token_id)
            elif part[0] == "video":
                frames = [picture(64, 96, seed=i) for i in range(part[1])]
                media.append(load_video(frames, model))
                tokens.append(config.video_token_id)
            elif config.audio is not None:
                media.append(load_audio(clip(part[1]), model, rate=16_000))
                tokens.append(config.audio_token_id)
    frame = iter(range(9))
    inputs = expand(tokens, media, config, encode=lambda text: [10 + next(frame), 20])
    assert inputs.tokens == reference["ids"].tolist()
    return inputs, int(reference["turns"][0])


def _texts(ids, config):
    """The text tokens of a prompt: neither placeholders, markers, nor a frame's time."""
    marks = {*config.soft_token_ids, config.boi_token_id, config.eoi_token_id}
    marks |= {config.boa_token_id, config.eoa_token_id}
    of_video = np.zeros(len(ids), bool)
    for i, token in enumerate(ids):
        if token == config.video_token_id and ids[i - 1] == config.boi_token_id:
            of_video[i - 3 : i - 1] = True
    return [int(t) for t, skip in zip(ids, of_video) if t not in marks and not skip]


@pytest.mark.parametrize("name", NAMES)
def test_whole(name, mixed):
    model, inputs, _, expected = mixed(name)
    encoded = encode_media(model, inputs)
    logits = model(mx.array([inputs.tokens]), features=inputs.features(encoded))
    agree(logits[0], expected)


@pytest.mark.parametrize(
    "name, size", [("mm", 7), ("mm", 40), ("dense31", 16), ("moe", 40), ("everything", 16)]
)
def test_in_chunks(name, size, mixed):
    """Chunks that end within sounds and text but never within a picture, the window being 16."""
    model, inputs, _, expected = mixed(name)
    encoded = encode_media(model, inputs)
    cache, out = model.make_cache(), []
    for start, stop in inputs.chunks(size):
        tokens = mx.array([inputs.tokens[start:stop]])
        features = inputs.features(encoded, start, stop)
        out.append(model(tokens, cache=cache, features=features)[0])
    agree(mx.concatenate(out), expected)


@pytest.mark.parametrize("name", NAMES)
def test_over_two_turns(name, mixed):
    """The second turn continues the cache and encodes only what is new."""
    model, inputs, turn, expected = mixed(name)
    kept, calls = MediaCache(), []
    real = model.encode_image
    cache, out = model.make_cache(), []
    try:
        model.encode_image = lambda *a: calls.append(1) or real(*a)
        for start, stop in ((0, turn), (turn, len(inputs))):
            so_far = type(inputs)(
                inputs.tokens[:stop],
                inputs.token_types[:stop],
                [span for span in inputs.media if span.stop <= stop],
            )
            encoded = encode_media(model, so_far, kept, start)
            features = so_far.features(encoded, start, stop)
            out.append(model(mx.array([so_far.tokens[start:]]), cache=cache, features=features)[0])
    finally:
        del model.encode_image
    agree(mx.concatenate(out), expected)
    assert len(calls) == 5  # two pictures and three frames, each once


@pytest.mark.parametrize("name", ["dense31", "moe"])
def test_a_picture_longer_than_the_window(name, checkpoint):
    """18 soft tokens, window 16: the window is cut off the block, not the other way round."""
    reference = checkpoint(name)
    model = g4.load(reference.folder)
    features = model.encode_image(mx.array(reference.long_pixels[0]), reference.long_positions[0])
    agree(model(mx.array(reference.long_ids), features=features), reference.long_logits)


@pytest.mark.parametrize("tag, order", [("aud", (0, 1)), ("aud2", (1, 0))])
def test_clips_of_different_lengths_in_any_order(tag, order, checkpoint):
    """In transformers' batch the shorter is padded; here it comes alone, first or second."""
    reference = checkpoint("mm")
    model = g4.load(reference.folder)
    clips = [
        model.embed_audio(
            model.audio_tower(mx.array(reference.aud_mel[i][reference.aud_mask[i]]), keys=12)
        )
        for i in order
    ]
    assert [len(c) for c in clips] == reference.aud_counts[list(order)].tolist()
    logits = model(mx.array(getattr(reference, f"{tag}_ids")), features=mx.concatenate(clips))
    agree(logits, getattr(reference, f"{tag}_logits"))


def test_the_unified_model():
    """Pixels and samples without a tower: features and logits."""
    reference = arrays("unified")
    model = g4.load(folder() / "unified")
    seen = model.encode_image(mx.array(reference["pixels"]), reference["positions"])
    agree(seen, reference["features"][: len(seen)])
    frame = model.encode_image(mx.array(reference["frame"]), reference["frame_positions"])
    heard = model.encode_audio(mx.array(reference["samples"]))
    features = mx.concatenate([seen, frame, heard])
    agree(model(mx.array(reference["ids"][None]), features=features)[0], reference["logits"])
