"""A still picture described once and written twice: as PNG by Pillow, as SVG by hand.

Only what the widgets' still pictures need: rectangles, lines, texts and pixel images, in a
coordinate system of CSS pixels with the origin at the top left.
"""

from __future__ import annotations

import base64
import html
import io
from functools import lru_cache

import numpy as np

SCALE = 2  # device pixels per unit in the PNG
INK, FAINT, LINE, PAPER, SUNKEN = "#1b1d22", "#5b616e", "#868d9c", "#ffffff", "#eceef2"

#: Okabe and Ito's colours, in the order the front end gives them out.
CATEGORIES = "#0072b2 #e69f00 #009e73 #cc79a7 #56b4e9 #d55e00 #f0e442 #999999".split()
_VIRIDIS = "#440154 #482878 #3e4989 #31688e #26828e #1f9e89 #35b779 #6ece58 #b5de2b #fde725"
_DIVERGING = "#2166ac #67a9cf #d1e5f0 #f2f0ec #fdd7b0 #ef8a45 #b35806"


@lru_cache
def color_table(name: str) -> np.ndarray:
    """(256, 3) uint8 of "viridis" or "diverging"."""
    stops = {"viridis": _VIRIDIS, "diverging": _DIVERGING}[name].split()
    rgb = np.array([[int(s[i : i + 2], 16) for i in (1, 3, 5)] for s in stops], float)
    at = np.linspace(0, len(rgb) - 1, 256)
    channels = [np.interp(at, np.arange(len(rgb)), rgb[:, c]) for c in range(3)]
    return np.stack(channels, 1).round().astype(np.uint8)


def css(color) -> str:
    """An (r, g, b) triple as "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*(int(c) for c in color))


@lru_cache
def _font(size: int, bold: bool):
    """DejaVu Sans as matplotlib ships it, without importing matplotlib."""
    from importlib.util import find_spec
    from pathlib import Path

    from PIL import ImageFont

    folder = Path(find_spec("matplotlib").origin).parent / "mpl-data" / "fonts" / "ttf"
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(folder / name, size)


class Drawing:
    """A picture of ``width`` x ``height`` CSS pixels on white."""

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self._items: list[tuple] = []

    def rect(self, x, y, w, h, fill=None, stroke=None, opacity: float = 1.0) -> None:
        """A rectangle; ``opacity`` applies to the fill."""
        self._items.append(("rect", x, y, w, h, fill, stroke, opacity))

    def line(self, points, stroke=INK, width: float = 1.0) -> None:
        """A polyline through [(x, y), ...]."""
        self._items.append(("line", list(points), stroke, width))

    def circle(self, x, y, r, fill=INK, stroke=PAPER) -> None:
        """A dot with a rim."""
        self._items.append(("circle", x, y, r, fill, stroke))

    def text(self, x, y, text, size=12, fill=INK, anchor="start", bold=False) -> None:
        """One line whose baseline is at ``y``; ``anchor``: "start", "middle" or "end"."""
        self._items.append(("text", x, y, str(text), size, fill, anchor, bold))

    def image(self, x, y, w, h, pixels: np.ndarray) -> None:
        """An (r, c, 3) uint8 array, nearest neighbour, over the rectangle."""
        self._items.append(("image", x, y, w, h, np.ascontiguousarray(pixels, np.uint8)))

    def measure(self, text: str, size: float = 12, bold: bool = False) -> float:
        """Width of a text in CSS pixels (DejaVu Sans)."""
        return _font(round(size * SCALE), bold).getlength(text) / SCALE

    def pil(self):
        """The picture as a ``PIL.Image``, two device pixels per CSS pixel."""
        from PIL import Image, ImageDraw

        size = (round(self.width * SCALE), round(self.height * SCALE))
        out = Image.new("RGB", size, PAPER)
        draw = ImageDraw.Draw(out, "RGBA")

        def at(*values):
            return [v * SCALE for v in values]

        for kind, *item in self._items:
            if kind == "rect":
                x, y, w, h, fill, stroke, opacity = item
                box = at(x, y, x + w, y + h)
                if fill and w > 0 and h > 0:
                    corner = [max(box[0], box[2] - 1), max(box[1], box[3] - 1)]
                    draw.rectangle([*box[:2], *corner], _rgba(fill, opacity))
                if stroke:
                    draw.rectangle(box, outline=stroke, width=SCALE)
            elif kind == "line":
                points, stroke, width = item
                draw.line([tuple(at(*p)) for p in points], stroke, max(1, round(width * SCALE)))
            elif kind == "circle":
                x, y, r, fill, stroke = item
                draw.ellipse(at(x - r, y - r, x + r, y + r), fill, stroke, SCALE)
            elif kind == "text":
                x, y, text, size, fill, anchor, bold = item
                draw.text(
                    at(x, y),
                    text,
                    fill,
                    _font(round(size * SCALE), bold),
                    anchor={"start": "ls", "middle": "ms", "end": "rs"}[anchor],
                )
            else:
                x, y, w, h, pixels = item
                target = (max(1, round(w * SCALE)), max(1, round(h * SCALE)))
                picture = Image.fromarray(pixels).resize(target, Image.Resampling.NEAREST)
                out.paste(picture, (round(x * SCALE), round(y * SCALE)))
        return out

    def png(self) -> bytes:
        """The picture as PNG bytes."""
        out = io.BytesIO()
        self.pil().save(out, format="PNG")
        return out.getvalue()

    def svg(self) -> str:
        """The picture as a self-contained SVG document; pixel images are embedded."""
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width:g}" '
            f'height="{self.height:g}" viewBox="0 0 {self.width:g} {self.height:g}" '
            'font-family="system-ui, DejaVu Sans, sans-serif">',
            f'<rect width="100%" height="100%" fill="{PAPER}"/>',
        ]
        for kind, *item in self._items:
            lines.append(getattr(self, f"_svg_{kind}")(*item))
        return "\n".join([*lines, "</svg>\n"])

    @staticmethod
    def _svg_rect(x, y, w, h, fill, stroke, opacity):
        extra = f' fill-opacity="{opacity:g}"' if opacity < 1 else ""
        return (
            f'<rect x="{x:.2f}" y="{y:.2f}" width="{w:.2f}" height="{h:.2f}" '
            f'fill="{fill or "none"}" stroke="{stroke or "none"}"{extra}/>'
        )

    @staticmethod
    def _svg_line(points, stroke, width):
        path = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
        return f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="{width:g}"/>'

    @staticmethod
    def _svg_circle(x, y, r, fill, stroke):
        return f'<circle cx="{x:.2f}" cy="{y:.2f}" r="{r:.2f}" fill="{fill}" stroke="{stroke}"/>'

    @staticmethod
    def _svg_text(x, y, text, size, fill, anchor, bold):
        weight = ' font-weight="bold"' if bold else ""
        clean = "".join(c if c >= " " else " " for c in text)
        return (
            f'<text x="{x:.2f}" y="{y:.2f}" font-size="{size:g}" fill="{fill}" '
            f'text-anchor="{anchor}"{weight}>{html.escape(clean)}</text>'
        )

    @staticmethod
    def _svg_image(x, y, w, h, pixels):
        from PIL import Image

        out = io.BytesIO()
        Image.fromarray(pixels).save(out, format="PNG")
        data = base64.b64encode(out.getvalue()).decode()
        return (
            f'<image x="{x:.2f}" y="{y:.2f}" width="{w:.2f}" height="{h:.2f}" '
            f'preserveAspectRatio="none" style="image-rendering:pixelated" '
            f'href="data:image/png;base64,{data}"/>'
        )


def _rgba(color: str, opacity: float):
    return (*(int(color[i : i + 2], 16) for i in (1, 3, 5)), round(255 * opacity))


def flow_tokens(drawing: Drawing, words, colors, x, y, width, size=12.5, rows=14) -> float:
    """Lay tokens out as running text, each on its colour (None for none); returns the next y.

    At most ``rows`` lines; what does not fit is counted in a last line.
    """
    at, line = x, size * 1.75
    last = y + rows * line
    for i, (word, color) in enumerate(zip(words, colors)):
        shown = word.replace("\n", "↵").replace("\t", " ")
        wide = drawing.measure(shown, size)
        if at + wide > x + width and at > x:
            at, y = x, y + line
        if y >= last:
            drawing.text(x, y + size, f"… and {len(words) - i:,} more tokens", 11, FAINT)
            return y + line
        if color:
            drawing.rect(at, y - size * 0.15, wide, size * 1.45, fill=color[0], opacity=color[1])
        drawing.text(at, y + size, shown, size)
        at += wide
        if "\n" in word:
            at, y = x, y + line
    return y + line
