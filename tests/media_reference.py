"""What transformers makes of pictures, sounds, videos, and of prompts that mix them.

``arrays(part)`` runs this file as a script in a process of its own (torch and MLX should not
share a BLAS), once, and loads what it wrote. Both sides draw the same media from the functions at
the top. The parts are functions below, named ``make_<part>``.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

BUDGETS = (70, 140, 280, 560, 1120)
#: (height, width): 1:1 to 1:10 and beyond, one pixel to 8000, one that needs no resizing.
SHAPES = [
    (768, 1024), (1024, 1024), (1, 1), (7, 5), (48, 48), (97, 970), (970, 97), (3000, 2000),
    (800, 8000), (8000, 801), (672, 912), (333, 777), (2, 640), (640, 1), (49, 47),
]  # fmt: skip
#: Samples at 16 kHz: 10 ms, around the first frame, the padding to 128, a frame, a block, 30 s.
CLIPS = (160, 161, 320, 1279, 1280, 1281, 16_000, 31_999, 47_361, 479_999, 480_000)


def picture(height, width, seed=0):
    """(height, width, 3) uint8: soft gradients under noise."""
    rng = np.random.default_rng(seed + 7 * height + 13 * width)
    y = np.linspace(0, 1, height)[:, None, None]
    x = np.linspace(0, 1, width)[None, :, None]
    base = 0.5 + 0.4 * np.sin(6 * x * rng.random(3) + 9 * y * rng.random(3))
    noise = rng.integers(-20, 20, (height, width, 1), dtype=np.int16)
    return np.clip(base * 255 + noise, 0, 255).astype(np.uint8)


def clip(samples, seed=0):
    """(samples,) float32: gliding tones and noise, with a silent stretch."""
    rng = np.random.default_rng(seed + samples)
    t = np.arange(samples) / 16_000
    wave = 0.3 * np.sin(2 * np.pi * (200 + 90 * t) * t) + 0.05 * rng.standard_normal(samples)
    wave[samples // 3 : samples // 2] = 0
    return wave.astype(np.float32)


def digest(array):
    """SHA-256 of integers, whatever their type."""
    return hashlib.sha256(np.ascontiguousarray(array, dtype=np.int32)).hexdigest()


#: name -> (frames, frames per second, height, width, codec)
VIDEOS = {
    "short.mp4": (40, 24, 96, 128, "libx264"),
    "slow.mp4": (90, 1, 120, 64, "mpeg4"),
    "long.mp4": (300, 30, 48, 160, "libx264"),
    "odd.mov": (33, 29.97, 90, 90, "mjpeg"),
}


def write_video(path, frames, fps, height, width, codec):
    """A moving gradient, so that every frame differs from the next."""
    from fractions import Fraction

    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for i in range(frames):
            image = np.roll(picture(height, width), 3 * i, axis=1)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def folder():
    """Where the parts are kept from one run to the next. Skips the test without transformers."""
    import pytest

    here = Path(__file__).parent
    try:
        key = version("transformers") + version("torch")
    except PackageNotFoundError as missing:
        pytest.skip(f"the numerical reference needs {missing.name}")
    source = b"".join((here / n).read_bytes() for n in ("media_reference.py", "reference.py"))
    digest = hashlib.sha256(source + key.encode()).hexdigest()[:12]
    path = Path(tempfile.gettempdir()) / f"gemma4-media-{digest}"
    path.mkdir(exist_ok=True)
    return path


def arrays(part):
    """The arrays of ``make_<part>`` as a dict."""
    path = folder() / f"{part}.npz"
    if not path.exists():
        run = subprocess.run(
            [sys.executable, __file__, str(path.parent), part], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr[-3000:]
    with np.load(path) as found:
        return dict(found)


# --- processors ---------------------------------------------------------------------------------


def make_images(_):
    """For each shape and budget: token count, and hashes of the positions and 8-bit patches."""
    from PIL import Image
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    out = {}

    def process(name, array, **options):
        # As a PIL image: of an array 3 pixels wide it would take the width for the channels.
        result = Gemma4ImageProcessorPil(**options)(Image.fromarray(array), return_tensors="np")
        values = result["pixel_values"][0]
        positions = result["image_position_ids"][0]
        real = positions[:, 0] >= 0
        eight_bit = np.rint(values[real] * 255).astype(np.uint8)
        assert np.abs(eight_bit / 255 - values[real]).max() < 1e-6
        out[f"{name}_patches"] = np.array(digest(eight_bit))
        out[f"{name}_positions"] = np.array(digest(positions[real]))
        out[f"{name}_tokens"] = result["num_soft_tokens_per_image"][0]

    for height, width in SHAPES:
        array = picture(height, width)
        budgets = BUDGETS if height * width < 800_000 else (280,)
        for budget in budgets:
            process(f"{height}x{width}_{budget}", array, max_soft_tokens=budget)
        if (height, width) in ((333, 777), (48, 48)):
            process(f"{height}x{width}_p8", array, max_soft_tokens=70, patch_size=8)
    return out


def make_modes(_):
    """Pictures of other modes, after transformers' conversion to RGB."""
    from transformers.image_transforms import convert_to_rgb

    return {
        name: convert_to_rgb(image, return_numpy=True) for name, image in pictures_by_mode().items()
    }


def pictures_by_mode():
    """PIL images of every mode that converts the same way here and in transformers."""
    from PIL import Image

    rgb = Image.fromarray(picture(60, 80))
    alpha = Image.fromarray(picture(60, 80, seed=3)[..., 0])
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=32)
    see_through = palette.copy()
    see_through.info["transparency"] = 5
    return {
        "RGB": rgb,
        "RGBA": rgba,
        "LA": rgba.convert("LA"),
        "L": rgb.convert("L"),
        "1": rgb.convert("1"),
        "P": palette,
        "P_transparent": see_through,
        "CMYK": rgb.convert("CMYK"),
        "YCbCr": rgb.convert("YCbCr"),
    }


def make_audio(_):
    """For each clip length: valid frames and the number of placeholders."""
    from types import SimpleNamespace

    from transformers import Gemma4AudioFeatureExtractor
    from transformers.models.gemma4.processing_gemma4 import Gemma4Processor

    extractor, out = Gemma4AudioFeatureExtractor(), {}
    marks = SimpleNamespace(boa_token="", eoa_token="", audio_token="x")
    for n in CLIPS:
        result = extractor([clip(n)], return_tensors="np")
        mask = result["input_features_mask"][0]
        out[f"{n}_mel"] = result["input_features"][0][mask]
        text = Gemma4Processor.replace_audio_token(marks, result, 0)
        out[f"{n}_tokens"] = len(text)
    out["mel64"] = Gemma4AudioFeatureExtractor(feature_size=64)(
        [clip(16_000)], return_tensors="np"
    )["input_features"][0][:99]
    return out


def make_videos(path):
    """Each video's sampled frames, their indices and the text that stands in the prompt."""
    from functools import partial
    from types import SimpleNamespace

    from transformers.models.gemma4.processing_gemma4 import Gemma4Processor
    from transformers.video_utils import default_sample_indices_fn, read_video_pyav

    marks = SimpleNamespace(boi_token="<", eoi_token=">", video_token="v")
    out = {}
    for name, spec in VIDEOS.items():
        write_video(path / name, *spec)
        frames, metadata = read_video_pyav(
            str(path / name), partial(default_sample_indices_fn, num_frames=32)
        )
        inputs = {"num_soft_tokens_per_video": [2], "video_metadata": [metadata]}
        out[f"{name}_frames"] = frames
        out[f"{name}_indices"] = metadata.frames_indices
        out[f"{name}_text"] = np.array(Gemma4Processor.replace_video_token(marks, inputs, 0))
    return out


def make_merge(_):
    """The unified model's patches of 48 x 48, from its image processor's own functions."""
    import ast
    import importlib.util
    import math

    import torch

    # The module itself needs torchvision; the two functions do not.
    root = importlib.util.find_spec("transformers").submodule_search_locations[0]
    source = Path(root, "models/gemma4_unified/image_processing_gemma4_unified.py").read_text()
    wanted = ("convert_image_to_patches", "patches_merge")
    tree = ast.parse(source)
    tree.body = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in wanted]
    scope = {"torch": torch, "math": math}
    exec(compile(tree, "image_processing", "exec"), scope)
    image = torch.from_numpy(picture(192, 240)).permute(2, 0, 1).float() / 255
    patches = scope["convert_image_to_patches"](image, 16)
    n = torch.arange(12 * 15)
    where = torch.stack([n % 15, n // 15], -1)
    merged, positions = scope["patches_merge"](patches[None], where[None], 20)
    return {"patches": merged[0].numpy(), "positions": positions[0].numpy()}


# --- models -------------------------------------------------------------------------------------


def thirteen_keys():
    """Let transformers' audio tower see the 13 keys of the design, not 12."""
    from transformers.models.gemma4 import modeling_gemma4 as m

    original = m.sliding_window_mask_function
    m.sliding_window_mask_function = lambda sizes: original((sizes[0] + 1, sizes[1]))


def make_towers(_):
    """Tower outputs of checkpoints of reference.py: pictures, and clips of 1 to 200 frames.

    Keys start with the checkpoint's name; those of clips end with the keys a token sees.
    """
    import torch
    from reference import build, patch_positions

    g, out = torch.Generator().manual_seed(3), {}
    models = {name: build(name)[1].model for name in ("mm", "moe")}
    with torch.no_grad():
        for rows, columns in ((3, 3), (6, 9), (9, 6), (12, 30)):
            pixels = torch.rand(1, rows * columns, 768, generator=g)
            positions = patch_positions(rows, columns, rows * columns)[None]
            out[f"{rows}x{columns}_pixels"] = pixels[0]
            for name, model in models.items():
                seen = model.vision_tower(pixels, positions).last_hidden_state
                out[f"{name}_{rows}x{columns}_features"] = seen
        frames = (1, 4, 5, 47, 48, 49, 200)
        out.update({f"{n}_mel": torch.randn(n, 128, generator=g) for n in frames})
        for keys in (12, 13):
            if keys == 13:
                thirteen_keys()
            for n in frames:
                mask = torch.ones(1, n, dtype=torch.bool)
                heard = models["mm"].audio_tower(out[f"{n}_mel"][None], mask).last_hidden_state
                out[f"{n}_features_{keys}"] = heard[0]
    return {k: v.numpy() for k, v in out.items()}


def mixed_prompt():
    """Prompt of two turns with media as (kind, what) parts; numbers are lengths of random text.

    Turn 1: text, a wide picture, text, a small clip, a tall picture. Turn 2: text, a video of
    three frames, a longer clip, text.
    """
    return (
        [7, ("image", (200, 480)), 5, ("audio", 9_000), 3, ("image", (300, 150)), 9],
        [6, ("video", 3), 4, ("audio", 20_000), 11],
    )


def make_mixed(_):
    """Logits of ``mixed_prompt`` at a budget of 70 and its ids, for four checkpoints.

    Models without a sense get the prompt without such parts. Keys end with the name.
    """
    thirteen_keys()
    out = {}
    for name in ("mm", "dense31", "moe", "everything"):
        out.update({f"{key}_{name}": value for key, value in mixed_logits(name).items()})
    return out


def mixed_logits(name):
    import torch
    from reference import AUDIO, BOA, BOI, EOA, EOI, IMAGE, VIDEO, Prompts, build
    from transformers import Gemma4AudioFeatureExtractor
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    _, model = build(name)
    hears = model.model.audio_tower is not None
    prompts, see = Prompts(11), Gemma4ImageProcessorPil(max_soft_tokens=70)
    hear = Gemma4AudioFeatureExtractor()
    images, frames, clips, sequence, turns = [], [], [], [], []
    for turn in mixed_prompt():
        for part in turn:
            if isinstance(part, int):
                sequence += prompts.text(part)
            elif part[0] == "image":
                images.append(see(picture(*part[1]), return_tensors="pt"))
                n = images[-1]["num_soft_tokens_per_image"][0]
                sequence += [BOI] + [IMAGE] * n + [EOI]
            elif part[0] == "video":
                for i in range(part[1]):
                    frames.append(see(picture(64, 96, seed=i), return_tensors="pt"))
                    n = frames[-1]["num_soft_tokens_per_image"][0]
                    sequence += [10 + i, 20, BOI] + [VIDEO] * n + [EOI]
            elif hears:
                clips.append(clip(part[1]))
                n = int(hear([clips[-1]], return_tensors="np")["input_features_mask"][0].sum())
                sequence += [BOA] + [AUDIO] * ((n + 3) // 4) + [EOA]
        turns.append(len(sequence))
    media = {
        "pixel_values": torch.cat([i["pixel_values"] for i in images]).float(),
        "image_position_ids": torch.cat([i["image_position_ids"] for i in images]),
        "pixel_values_videos": torch.cat([i["pixel_values"] for i in frames]).float(),
        "video_position_ids": torch.cat([i["image_position_ids"] for i in frames]),
        "num_frames_per_video": torch.tensor([len(frames)]),
    }
    if hears:
        sound = hear(clips, return_tensors="pt")
        media |= {k: sound[k] for k in ("input_features", "input_features_mask")}
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([sequence]),
            mm_token_type_ids=torch.tensor([Prompts.types(sequence)]),
            use_cache=False,
            **media,
        ).logits[0]
    return {"ids": np.array(sequence), "turns": np.array(turns), "logits": logits.numpy()}


def make_unified(path):
    """A tiny encoder-free checkpoint and its logits with a picture, a video's frame and a clip."""
    import reference as r
    import torch
    import transformers as t

    config = t.Gemma4UnifiedConfig(
        text_config=t.Gemma4UnifiedTextConfig(
            **{k: v for k, v in (r.BASE | r.DENSE31).items()
               if not k.startswith(("vocab_size_per", "hidden_size_per"))},
            rope_parameters=r.ROPE,
        ),
        vision_config=t.Gemma4UnifiedVisionConfig(
            mm_embed_dim=96, output_proj_dims=96, mm_posemb_size=40
        ),
        audio_config=t.Gemma4UnifiedAudioConfig(),
        **r.TOKEN_IDS,
    )  # fmt: skip
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = t.Gemma4UnifiedForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        model.model.embed_vision.pos_embedding.normal_()
    r.randomise(model)
    model.save_pretrained(path / "unified")
    prompts = r.Prompts(5)
    pixels = torch.rand(1, 8, 6912, generator=prompts.g)
    pixels[:, 6:] = 0
    frame = torch.rand(1, 4, 6912, generator=prompts.g)
    samples = torch.randn(1, 9, 640, generator=prompts.g) * 0.1
    sequence = [
        *prompts.text(5), r.BOI, *[r.IMAGE] * 6, r.EOI, *prompts.text(20),
        r.BOI, *[r.VIDEO] * 4, r.EOI, *prompts.text(3),
        r.BOA, *[r.AUDIO] * 9, r.EOA, *prompts.text(6),
    ]  # fmt: skip
    positions, frame_positions = r.patch_positions(2, 3, 8)[None], r.patch_positions(2, 2, 4)[None]
    with torch.no_grad():
        seen = model.model.get_image_features(pixels, positions).pooler_output
        # The masks of its generate(): called plainly, transformers 5.24 lets pictures look ahead
        # on this model's full-attention layers as well, which no other path of it does.
        masks = model.create_masks_for_generate(
            config,
            torch.zeros(1, len(sequence), r.HIDDEN),
            attention_mask=None,
            cache=None,
            position_ids=torch.arange(len(sequence))[None],
            mm_token_type_ids=torch.tensor([r.Prompts.types(sequence)]),
        )
        logits = model(
            input_ids=torch.tensor([sequence]),
            attention_mask=masks,
            pixel_values=pixels,
            image_position_ids=positions,
            pixel_values_videos=frame,
            video_position_ids=frame_positions,
            num_frames_per_video=torch.tensor([1]),
            input_features=samples,
            input_features_mask=torch.ones(1, 9, dtype=torch.bool),
            use_cache=False,
        ).logits[0]
    seen = seen[0] if isinstance(seen, tuple | list) else seen
    found = {
        "pixels": pixels[0],
        "positions": positions[0],
        "frame": frame[0],
        "frame_positions": frame_positions[0],
        "samples": samples[0],
        "features": seen,
        "ids": torch.tensor(sequence),
        "logits": logits,
    }
    return {k: v.numpy() for k, v in found.items()}


def main(path, part):
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    torch.set_num_threads(1)
    path = Path(path)
    temporary = path / f"{os.getpid()}.npz"
    np.savez_compressed(temporary, **globals()[f"make_{part}"](path))
    temporary.rename(path / f"{part}.npz")


if __name__ == "__main__":
    main(*sys.argv[1:])
