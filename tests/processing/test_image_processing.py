"""Pictures: sizes, token counts and pixels as transformers has them, from every kind of source."""

import io

import numpy as np
import pytest
from media_reference import BUDGETS, SHAPES, arrays, digest, picture, pictures_by_mode
from PIL import Image

from gemma4_mlx.config import UnifiedVisionConfig
from gemma4_mlx.errors import MediaError
from gemma4_mlx.processing.image import load_image, open_image, target_size
from gemma4_mlx.processing.settings import ImageSettings, MediaSettings

TEACHING = MediaSettings(ImageSettings(patch_size=8, budget=70))
MERGED = MediaSettings(ImageSettings(merged=True))


def eight_bit(image):
    return np.rint(image.patches * 255).astype(np.uint8)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_same_as_transformers(shape):
    """Every budget: token count and positions exactly, pixels to the last bit."""
    reference, pixels = arrays("images"), picture(*shape)
    for budget in BUDGETS:
        name = f"{shape[0]}x{shape[1]}_{budget}"
        if f"{name}_tokens" not in reference:
            continue
        image = load_image(pixels, budget=budget)
        assert image.n_soft == reference[f"{name}_tokens"] <= budget
        assert digest(image.positions) == reference[f"{name}_positions"]
        assert digest(eight_bit(image)) == reference[f"{name}_patches"]
        assert image.patches.dtype == np.float32 and image.positions.dtype == np.int32
        assert len(image.patches) == image.grid[0] * image.grid[1] == 9 * image.n_soft


@pytest.mark.parametrize("shape", [(333, 777), (48, 48)])
def test_other_patch_sizes(shape):
    """Patches of 8 pixels, as in the teaching model."""
    reference, name = arrays("images"), f"{shape[0]}x{shape[1]}_p8"
    image = load_image(picture(*shape), TEACHING)
    assert image.n_soft == reference[f"{name}_tokens"]
    assert digest(eight_bit(image)) == reference[f"{name}_patches"]


def test_merged_patches_of_the_unified_model():
    reference = arrays("merge")
    settings = MediaSettings(ImageSettings(merged=True, budget=20))
    image = load_image(picture(192, 240), settings)
    assert image.size == (240, 192) and image.n_soft == 20
    assert np.abs(image.patches - reference["patches"]).max() < 1e-6
    assert np.array_equal(image.positions, reference["positions"])


def test_known_sizes():
    sizes = ImageSettings()
    assert target_size(768, 1024, sizes) == (672, 912)  # 266 tokens
    assert target_size(1024, 1024, sizes) == (768, 768)  # 256
    assert target_size(672, 960, sizes) == (672, 960)  # 280, unchanged
    assert target_size(1, 10_000, sizes) == (48, 280 * 48)
    assert target_size(10_000, 1, sizes, 70) == (70 * 48, 48)
    # Less than one cell within the budget: a single cell.
    assert target_size(30, 40, ImageSettings(budget=1)) == (48, 48)
    assert target_size(1, 500, ImageSettings(budget=1)) == (48, 48)
    # A table of 96 positions has room for 32 cells of 3 patches.
    assert target_size(1, 10_000, ImageSettings(positions=96)) == (48, 32 * 48)


@pytest.mark.parametrize("mode", list(pictures_by_mode()))
def test_modes_convert_as_in_transformers(mode):
    rgb, size, _ = open_image(pictures_by_mode()[mode])
    assert size == (80, 60)
    assert np.array_equal(np.asarray(rgb), arrays("modes")[mode])


def test_transparent_parts_show_white():
    image = Image.new("RGBA", (96, 96), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 48, 96))
    pixels = load_image(image).pixels
    assert pixels[300, 700].tolist() == [255, 255, 255]
    assert pixels[300, 50].tolist() == [255, 0, 0]


def test_sixteen_bits_keep_their_range():
    """PIL's own conversion cuts 16-bit values at 255, which turns such pictures white."""
    ramp = np.linspace(0, 65535, 96 * 96).reshape(96, 96).astype(np.uint16)
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "PNG")
    expected = np.rint(ramp / 257)
    for source in (file.getvalue(), ramp, ramp.astype(np.int32)):
        rgb = np.asarray(open_image(source)[0])
        assert np.array_equal(rgb[..., 1], expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    """A red top left corner, stored turned, comes out top left."""
    upright = Image.new("RGB", (96, 48), "blue")
    upright.paste((255, 0, 0), (0, 0, 48, 24))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that makes the stored one
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored.save(file, "PNG", exif=exif)
    image = load_image(file.getvalue())
    assert image.original_size == (96, 48)
    top_left = image.pixels[10, 10].astype(int)
    assert top_left[0] > 200 and top_left[2] < 60
    assert image.pixels[-10, -10, 2] > 200


def test_every_source_gives_the_same(tmp_path):
    pixels = picture(120, 200)
    path = tmp_path / "a picture.png"
    Image.fromarray(pixels).save(path)
    data = path.read_bytes()
    import base64

    data_url = "data:image/png;base64," + base64.b64encode(data).decode()
    floats = pixels.astype(np.float64) / 255
    sources = [
        pixels, floats, np.moveaxis(pixels, -1, 0), Image.fromarray(pixels), path, str(path), data,
        bytearray(data), io.BytesIO(data), data_url,
    ]  # fmt: skip
    images = [load_image(source) for source in sources]
    assert {image.key for image in images} == {images[0].key}
    assert images[4].name == "a picture.png"
    assert load_image(path, budget=70).key != images[0].key
    assert load_image(pixels, MERGED).key != images[0].key


def test_greyscale_and_bool_arrays():
    grey = picture(60, 60)[..., 0]
    a, b, c = (np.asarray(open_image(x)[0]) for x in (grey, grey[..., None], grey[None]))
    assert np.array_equal(a, b) and np.array_equal(a, c) and np.array_equal(a[..., 0], grey)
    assert np.asarray(open_image(grey > 100)[0]).max() == 255


def test_boxes_cover_the_original():
    image = load_image(picture(768, 1024))
    boxes = image.boxes
    assert boxes.shape == (266, 4) and image.soft_grid == (14, 19)
    assert boxes[0].tolist() == pytest.approx([0, 0, 1024 / 19, 768 / 14])
    assert boxes[-1].tolist() == pytest.approx([1024 * 18 / 19, 768 * 13 / 14, 1024, 768])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert areas.sum() == pytest.approx(1024 * 768, rel=1e-4)
    assert np.array_equal(np.asarray(image.to_pil()), image.pixels)


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (50, 50), c) for c in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert load_image(file.getvalue()).pixels[0, 0].tolist() == [255, 0, 0]


def test_budgets_are_the_models_own():
    with pytest.raises(MediaError, match="one of"):
        load_image(picture(50, 50), budget=100)
    assert load_image(picture(500, 500), TEACHING).n_soft == 64  # its default of 70
    assert load_image(picture(500, 500), TEACHING, budget=280).n_soft > 70


def test_settings_of_the_released_models(reference_dir):
    """From config.json with and without processor_config.json."""
    import json
    from types import SimpleNamespace

    from gemma4_mlx.config import Gemma4Config

    for name in ("E2B", "E4B", "26B-A4B", "31B", "12B"):
        config = Gemma4Config.from_file(reference_dir / f"config_gemma-4-{name}-it.json")
        file = "processor_config_12B.json" if name == "12B" else (
            "processor_config_E2B_E4B_26B_31B.json"
        )  # fmt: skip
        model = SimpleNamespace(
            config=config, processor_config=json.loads((reference_dir / file).read_text())
        )
        alone, both = MediaSettings.of(config), MediaSettings.of(model)
        assert alone == both
        assert both.image.merged == isinstance(config.vision, UnifiedVisionConfig)
        assert (both.image.budget, both.image.frame_budget, both.image.frames) == (280, 70, 32)
        assert (both.audio is None) == (name in ("26B-A4B", "31B"))
        if both.audio:
            assert both.audio.longest_seconds == 30 and both.audio.raw == (name == "12B")
