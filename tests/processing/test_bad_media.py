"""Damaged, hostile and odd files: a clear error or the right result, in bounded memory."""

import io
import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
import soundfile
from media_reference import clip, picture
from PIL import Image

from gemma4_mlx.errors import MediaError
from gemma4_mlx.processing import image as image_module
from gemma4_mlx.processing.audio import load_audio
from gemma4_mlx.processing.image import load_image, open_image


def encoded(array, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def png_header(width, height):
    """A PNG that claims a size and holds almost nothing."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def peak(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [(100_000, 100_000), (20_000, 20_000), (14_000, 10_000)])
def test_decompression_bombs_are_refused_unread(size):
    data = png_header(*size)

    def load():
        with pytest.raises(MediaError, match="more than"):
            load_image(data)

    assert peak(load) < 10e6


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_files_cut_short(kind):
    data = encoded(picture(300, 400), kind)
    for part in (0.5, 0.9):
        with pytest.raises(MediaError):
            load_image(data[: int(len(data) * part)])


@pytest.mark.parametrize("data", [b"x", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF"])
def test_nothing_behind_a_signature(data):
    with pytest.raises(MediaError):
        load_image(data)


def test_what_a_name_says_does_not_matter(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(picture(60, 60)))
    assert load_image(path).n_soft == 256
    path.write_text("this is a text")
    with pytest.raises(MediaError, match=r"photo\.jpg is no picture"):
        load_image(path)
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    with pytest.raises(MediaError, match="no picture"):  # PIL would start Ghostscript
        load_image(path)


def test_svg_is_named():
    for data in (b'<svg xmlns="http://www.w3.org/2000/svg"/>', b'<?xml version="1.0"?>\n<svg/>'):
        with pytest.raises(MediaError, match="SVG"):
            load_image(data)


def test_paths_that_are_none(tmp_path):
    (tmp_path / "empty.png").touch()
    for source, message in (
        (tmp_path / "none.png", "does not exist"),
        (tmp_path, "is a folder"),
        (tmp_path / "empty.png", "is empty"),
        ("x" * 5000, "does not exist|no path"),
        ("a\0b", "does not exist|no path"),
        (b"", "no bytes"),
        (42, "from int"),
        (io.StringIO("text"), "binary mode"),
        ("data:image/png;base64,%%%", "cannot be decoded"),
        ("data:image/png", "comma"),
        ("ftp://example.org/a.png", "does not exist|no path"),
    ):
        with pytest.raises(MediaError, match=message):
            load_image(source)


@pytest.mark.parametrize("shape", [(0, 10, 3), (10, 0, 3), (0, 0), (5,), (2, 2, 2, 2), (9, 9, 2)])
def test_arrays_that_are_no_picture(shape):
    with pytest.raises(MediaError, match="shape"):
        load_image(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (0, 0)])
def test_files_that_claim_no_pixels(size):
    gif = b"GIF89a" + struct.pack("<HHBBB", *size, 0, 0, 0) + b";"
    for data in (png_header(*size), gif):
        with pytest.raises(MediaError):
            load_image(data)


@pytest.mark.parametrize(
    "array, message",
    [
        (np.full((4, 4), np.nan), "NaN"),
        (np.full((4, 4), 200.0), "0 to 1"),
        (np.full((4, 4), -1), "0 to 65535"),
        (np.full((4, 4), 1j), "type"),
        (np.array([["a"]]), "type"),
    ],
)
def test_arrays_with_wrong_values(array, message):
    with pytest.raises(MediaError, match=message):
        load_image(array)


def test_one_pixel():
    image = load_image(np.array([[[255, 0, 0]]], np.uint8))
    assert image.n_soft == 256 and (image.pixels == [255, 0, 0]).all()
    assert image.boxes[-1].tolist() == [0.9375, 0.9375, 1, 1]


def test_a_panorama_40000_pixels_wide():
    """Grey, so that the test is quick; 40 million pixels."""
    file = io.BytesIO()
    Image.new("L", (40_000, 1_000), 128).save(file, "PNG", compress_level=1)
    image = load_image(file.getvalue())
    assert image.original_size == (40_000, 1_000)
    assert image.soft_grid == (2, 105) and (image.pixels == 128).all()


def test_a_panorama_needs_a_few_bytes_a_pixel():
    """Decoded, converted and resized: measured in a process of its own."""
    program = """
import io, resource, sys
from PIL import Image
from gemma4_mlx.processing.image import load_image

def peak():
    unit = 1 if sys.platform == "darwin" else 1000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

file = io.BytesIO()
Image.new("L", (40_000, 1_000), 128).save(file, "PNG", compress_level=1)
load_image(Image.new("RGB", (64, 64)))  # what is imported on first use
before = peak()
load_image(file.getvalue())
print(peak() - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) < 6 * 40_000_000


def test_a_larger_jpeg_is_decoded_small(monkeypatch):
    """Beyond the limit at a half, quarter or eighth of its size, hardly different."""
    data = encoded(picture(1200, 1600), "JPEG", quality=95)
    whole = load_image(data)
    monkeypatch.setattr(image_module, "MAX_PIXELS", 400_000)
    small = load_image(data)
    assert small.original_size == (1600, 1200) == whole.original_size
    assert small.n_soft == whole.n_soft
    assert np.abs(small.pixels.astype(int) - whole.pixels).mean() < 5
    picture_, _, _ = open_image(data)
    assert picture_.size == (400, 300)
    monkeypatch.setattr(image_module, "MAX_JPEG_PIXELS", 1_000_000)
    with pytest.raises(MediaError, match="more than"):
        load_image(data)


def test_damaged_metadata_is_no_obstacle():
    data = encoded(picture(60, 60), "JPEG", exif=b"Exif\0\0" + b"\xff" * 40)
    assert load_image(data).n_soft == 256


# --- sounds -------------------------------------------------------------------------------------


def wav(samples, rate=16_000, **options):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "no bytes"),
        (b"this is a text and no sound", "no sound"),
        (wav(np.zeros(0)), "no sound"),
        (wav(np.zeros(100)), "at least 161"),
        (wav(np.array([0.0] * 999 + [np.nan], np.float32), subtype="FLOAT"), "NaN"),
        (wav(np.array([0.0] * 999 + [np.inf], np.float32), subtype="FLOAT"), "NaN"),
        (wav(clip(16_000))[:30], "no sound"),
        (encoded(picture(20, 20)), "no sound"),
        (wav(clip(2_000))[:20] + b"\0\x80" + wav(clip(2_000))[22:], "no sound"),  # unknown codec
    ],
)
def test_files_that_are_no_sound(data, message):
    with pytest.raises(MediaError, match=message):
        load_audio(data)


def test_a_wave_file_cut_short_gives_what_is_there():
    audio = load_audio(wav(clip(32_000))[:32_044])
    assert audio.seconds == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    "samples, rate, message",
    [
        (np.zeros(16_000), None, "needs its rate"),
        (np.zeros(0), 16_000, "empty"),
        (np.zeros((2, 3, 4)), 16_000, "shape"),
        (np.zeros((100, 100)), 16_000, "shape"),
        (np.full(16_000, np.nan), 16_000, "NaN"),
        (np.full(16_000, 3000.0), 16_000, "-1 to 1"),
        (np.zeros(16_000, complex), 16_000, "integers"),
        (np.zeros(16_000), 0, "cannot be right"),
        (np.zeros(16_000), -8_000, "cannot be right"),
        (np.zeros(16_000), 10**9, "cannot be right"),
        (np.zeros(16_000), "16000", "cannot be right"),
    ],
)
def test_arrays_that_are_no_sound(samples, rate, message):
    with pytest.raises(MediaError, match=message):
        load_audio(samples, rate=rate)


def test_hours_are_refused_before_they_are_read(tmp_path):
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 8_000, 1) as file:
        for _ in range(61):
            file.write(np.zeros(8_000 * 60))

    def load():
        for split in (False, True):
            with pytest.raises(MediaError, match=r"3660\.0 s|3660 s"):
                load_audio(path, split=split)

    assert peak(load) < 5e6
