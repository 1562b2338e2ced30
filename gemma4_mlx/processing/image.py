"""A picture from anywhere -> the patches that the vision tower takes.

    open -> turn upright (EXIF) -> RGB on white -> resize to whole cells within the budget
         -> patches (P, 3*p*p) with their (column, row)

A *cell* is what becomes one soft token: pooling x pooling patches, 48 x 48 px in the released
models. The aspect ratio is kept, small pictures are enlarged, and each side is rounded down to
whole cells. Worked example at a budget of 280: 1024 x 768 -> 912 x 672 = 19 x 14 cells = 266 soft
tokens. Follows transformers (``image_processing_pil_gemma4.py``), whose results are equalled byte
for byte up to the conversion to float.
"""

import hashlib
import io
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MediaError
from .fetch import locate
from .settings import ImageSettings, MediaSettings

#: Decoders that are tried. Not the ones that start other programs (EPS) or read vector files.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "AVIF", "JPEG2000")
#: Pixels that are decoded at once (300 MB as RGB). A JPEG beyond it is decoded at a half, a
#: quarter or an eighth of its size, up to the second limit; other formats are refused.
MAX_PIXELS = 100_000_000
MAX_JPEG_PIXELS = 1_000_000_000
#: The EXIF tag for the orientation, and its values that swap width and height.
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)


@dataclass(frozen=True, eq=False)
class ImageInput:
    """One picture, ready for the model.

    Attributes:
        pixels: (height, width, 3) uint8, resized.
        original_size: (width, height) before resizing, upright.
        settings: how the pixels are cut.
        name: file name or another short label.
        key: SHA-256 of the pixels and settings: equal keys make equal soft tokens.
    """

    pixels: np.ndarray
    original_size: tuple[int, int]
    settings: ImageSettings
    name: str
    key: str

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) after resizing, in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def soft_grid(self) -> tuple[int, int]:
        """(rows, columns) of soft tokens."""
        cell = self.settings.cell
        return self.pixels.shape[0] // cell, self.pixels.shape[1] // cell

    @property
    def n_soft(self) -> int:
        rows, columns = self.soft_grid
        return rows * columns

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patches given to the model."""
        rows, columns = self.soft_grid
        k = 1 if self.settings.merged else self.settings.pooling
        return rows * k, columns * k

    @property
    def patches(self) -> np.ndarray:
        """(P, 3*p*p) float32 in [0, 1]; within a patch row by row, the channel last."""
        rows, columns = self.grid
        p = self.pixels.shape[0] // rows
        x = self.pixels.reshape(rows, p, columns, p, 3).transpose(0, 2, 1, 3, 4)
        return x.reshape(rows * columns, -1).astype(np.float32) * np.float32(1 / 255)

    @property
    def positions(self) -> np.ndarray:
        """(P, 2) int32, the (column, row) of each patch."""
        rows, columns = self.grid
        n = np.arange(rows * columns, dtype=np.int32)
        return np.stack([n % columns, n // columns], axis=-1)

    @property
    def boxes(self) -> np.ndarray:
        """(n_soft, 4) float32: left, top, right, bottom of each soft token's cell, in pixels of
        the original picture."""
        rows, columns = self.soft_grid
        width, height = self.original_size
        n = np.arange(rows * columns)
        left, top = n % columns * (width / columns), n // columns * (height / rows)
        box = np.stack([left, top, left + width / columns, top + height / rows], axis=-1)
        return box.astype(np.float32)

    def to_pil(self):
        """The resized picture as a ``PIL.Image``."""
        from PIL import Image

        return Image.fromarray(self.pixels)


def load_image(
    source: Any, model: Any = None, *, budget: int | None = None, name: str | None = None
) -> ImageInput:
    """Read and cut one picture.

    Args:
        source: a path, http(s) or ``data:`` address, the file's bytes, an open binary file, a
            ``PIL.Image``, or an array (H, W), (H, W, 1, 3 or 4) or channels first, of uint8,
            uint16, bool, or floats in [0, 1]. Of an animation the first frame is taken.
        model: a model, its configuration or its :class:`MediaSettings`; None: the released
            models' sizes.
        budget: soft tokens at most, one of 70, 140, 280, 560, 1120; None: the model's default,
            280 in the released ones.
        name: a label to show, in place of the file's name.

    Raises:
        MediaError: no picture, a damaged or too large one, or a model that cannot see.
        ConfigError: as of :meth:`.MediaSettings.of`.
    """
    settings = MediaSettings.of(model).need_image()
    budget = settings.checked_budget(budget)
    picture, original_size, found = open_image(source)
    return prepare(picture, settings, budget, name or found, original_size)


def prepare(
    picture, settings: ImageSettings, budget: int, name: str, original_size: tuple[int, int]
) -> ImageInput:
    """Resize an RGB ``PIL.Image`` to its budget."""
    from PIL import Image

    height, width = target_size(picture.height, picture.width, settings, budget)
    if picture.size != (width, height):
        picture = picture.resize((width, height), resample=Image.Resampling.BICUBIC)
    pixels = np.asarray(picture)
    pixels.flags.writeable = False
    digest = hashlib.sha256(
        f"{pixels.shape} {settings.patch_size} {settings.pooling} {settings.merged}".encode()
    )
    digest.update(np.ascontiguousarray(pixels))
    return ImageInput(pixels, original_size, settings, name, digest.hexdigest())


def target_size(
    height: int, width: int, settings: ImageSettings, budget: int | None = None
) -> tuple[int, int]:
    """(height, width) to resize to: the largest whole cells within the budget at this shape.

    A side that would round to nothing gets one cell and the other keeps the aspect ratio as far
    as the budget goes, as in transformers; both (no released budget leads there) make a single
    cell, as in google-deepmind/gemma, where transformers refuses.
    """
    cell = settings.cell
    budget = settings.budget if budget is None else budget
    longest = min(budget, settings.positions // settings.pooling)  # cells on a side
    factor = math.sqrt(budget * cell * cell / (height * width))
    rows = math.floor(factor * height / cell)
    columns = math.floor(factor * width / cell)
    if rows == 0 and columns == 0:
        rows = columns = 1
    elif rows == 0:
        rows, columns = 1, min(width // height, budget)
    elif columns == 0:
        rows, columns = min(height // width, budget), 1
    return min(rows, longest) * cell, min(columns, longest) * cell


def open_image(source: Any):
    """``(RGB PIL.Image, (width, height) of the upright original, name)``. Raises MediaError."""
    from PIL import Image

    if isinstance(source, Image.Image):
        name = Path(getattr(source, "filename", "") or "image").name
        return *_decoded(source, source.size, name), name
    if hasattr(source, "__array__") or hasattr(source, "__array_interface__"):
        picture = _from_array(np.asarray(source))
        return picture, picture.size, "array"
    data, name = locate(source)
    with _stream(data, name) as stream:
        return *_decoded(*_opened(stream, name), name), name


def check_picture(data: Path | bytes, name: str) -> None:
    """Raise MediaError unless this begins like a picture that can be read; nothing is decoded."""
    with _stream(data, name) as stream:
        _opened(stream, name)


def _stream(data: Path | bytes, name: str):
    try:
        return io.BytesIO(data) if isinstance(data, bytes) else data.open("rb")
    except OSError as error:
        raise MediaError(f"{name} cannot be opened: {error}") from None


def _opened(stream, name: str):
    """A picture not yet decoded and its full (width, height)."""
    from PIL import Image, JpegImagePlugin

    head = stream.read(4096)
    stream.seek(0)
    try:
        if not head.startswith(b"\xff\xd8\xff"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                picture = Image.open(stream, formats=FORMATS)
            return picture, picture.size
        # Directly, because Image.open refuses large JPEGs, which can be decoded small.
        picture = JpegImagePlugin.JpegImageFile(stream)
    except Image.DecompressionBombError:
        raise MediaError(f"{name} has more than {MAX_PIXELS:,} pixels; make it smaller") from None
    except Image.UnidentifiedImageError:
        kind = "SVG, a drawing: render it to PNG first" if b"<svg" in head else "unknown format"
        raise MediaError(f"{name} is no picture that can be read here ({kind})") from None
    except Exception as error:  # decoders raise whatever they like on damaged files
        raise MediaError(f"{name} cannot be read as a picture: {error}") from None
    size = picture.size
    if (pixels := size[0] * size[1]) > MAX_JPEG_PIXELS:
        raise MediaError(f"{name} has {pixels:,} pixels, more than {MAX_JPEG_PIXELS:,}")
    if pixels > MAX_PIXELS:
        scale = next(s for s in (2, 4, 8) if pixels / s**2 <= MAX_PIXELS)
        picture.draft(None, (size[0] // scale, size[1] // scale))
    return picture, size


def _decoded(picture, size: tuple[int, int], name: str):
    """Decode, turn upright and convert: ``(RGB picture, (width, height) of the original)``."""
    from PIL import ImageOps

    if not picture.width or not picture.height:
        raise MediaError(f"{name} has no pixels ({picture.width} x {picture.height})")
    if picture.width * picture.height > MAX_PIXELS:
        raise MediaError(
            f"{name} has {picture.width} x {picture.height} pixels, more than {MAX_PIXELS:,}; "
            "make it smaller first (a model looks at under 3 million)"
        )
    try:
        orientation = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata is no reason to refuse a sound picture
        orientation = 1
    try:
        if orientation in _TURNED or orientation in (2, 3, 4):
            picture = ImageOps.exif_transpose(picture)
        picture = _to_rgb(picture)
    except MediaError:
        raise
    except Exception as error:
        raise MediaError(f"{name} is damaged or cut short: {error}") from None
    return picture, size[::-1] if orientation in _TURNED else size


def _to_rgb(picture):
    """8-bit RGB; transparent parts show white, as transformers' ``convert_to_rgb`` has it."""
    from PIL import Image

    if picture.mode == "RGB" and picture.info.get("transparency") is None:
        picture.load()
        return picture
    if picture.mode.startswith("I") or picture.mode == "F":  # 16-bit, 32-bit and float greyscale
        return _from_array(np.asarray(picture))
    if "A" not in picture.getbands() and picture.info.get("transparency") is None:
        return picture.convert("RGB")
    rgb = Image.new("RGB", picture.size, "white")
    for top in range(0, picture.height, 1024):  # in strips: compositing needs several copies
        box = (0, top, picture.width, min(top + 1024, picture.height))
        strip = picture.crop(box).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        rgb.paste(Image.alpha_composite(white, strip).convert("RGB"), box)
    return rgb


def _from_array(array: np.ndarray):
    """An RGB ``PIL.Image`` of an array. Raises MediaError for shapes and values that are none."""
    from PIL import Image

    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or 0 in array.shape:
        raise MediaError(
            f"an image array has shape (height, width) or (height, width, 1, 3 or 4), not "
            f"{array.shape}"
        )
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise MediaError(f"an image array of {array.shape} has more than {MAX_PIXELS:,} pixels")
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        pass
    elif kind == "b":
        array = array.astype(np.uint8) * 255
    elif kind in "iu":
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 65535:
            raise MediaError(f"integer pixels must lie in 0 to 65535, found {low} to {high}")
        # 16 bits by their type, or by their values if the type is wider (greyscale files).
        if array.dtype == np.uint16 or high > 255:
            array = np.rint(array / 257)
        array = array.astype(np.uint8)
    elif kind == "f":
        if not np.isfinite(array).all():
            raise MediaError("an image array holds NaN or infinite values")
        low, high = float(array.min()), float(array.max())
        if low < 0 or high > 1:
            raise MediaError(
                f"float pixels must lie in 0 to 1, found {low:g} to {high:g}; scale them, or "
                "convert to uint8"
            )
        array = np.rint(array * 255).astype(np.uint8)
    else:
        raise MediaError(f"an image array cannot be of type {array.dtype}")
    if array.shape[-1] == 1:
        array = np.repeat(array, 3, axis=-1)
    picture = Image.fromarray(np.ascontiguousarray(array))
    return _to_rgb(picture) if array.shape[-1] == 4 else picture
