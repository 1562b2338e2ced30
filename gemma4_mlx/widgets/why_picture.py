"""The Why widget's still picture: the text in the colours of its shares, and the largest parts."""

from __future__ import annotations

from .drawing import FAINT, INK, LINE, SUNKEN, Drawing

#: As static/colours.js: for is orange, against is blue.
FOR, AGAINST = "#b5540a", "#1f5fa8"
WIDTH, TEXT, LEFT = 1040, 560, 610  # the picture, its text, where the parts begin
SHOWN = 420  # tokens of text at most
PARTS = 12
FAINTEST = 0.01  # of the largest share; below it a token has no colour


def draw_why(view) -> Drawing:
    """What a ``Why`` widget shows, as a :class:`Drawing`."""
    why, tokens = view.attribution, view.trace_of().tokens
    out = Drawing(WIDTH, 470)
    out.text(16, 28, "Why did it say that?", 17, bold=True)
    less = "" if why.against is None else f" less that of “{_shown(why.against[1])}”"
    said = f"“{_shown(why.target[1])}”{less}: {why.total:+.2f} by {why.method}"
    source = view.meta["source"]
    out.text(16, 48, f"{said}{f' · {source}' if source else ''}", 12, FAINT)
    _draw_parts(out, why)
    out.text(16, 80, "Orange spoke for it, blue against it", 13, bold=True)
    _draw_text(out, why, tokens)
    return out


def _shown(text: str) -> str:
    return text.replace("\n", "↵").replace("\t", " ")


def _draw_text(out: Drawing, why, tokens) -> None:
    """Tokens up to the explained one, which has a frame."""
    stop = min(len(tokens), why.stop)
    start = max(0, stop - SHOWN)
    shares = why.positions
    high = 0.0 if shares is None else float(abs(shares).max(initial=0))
    x, y = 16.0, 98.0
    if start:
        out.text(16, y + 13, f"… after {start:,} more tokens", 11, FAINT)
        y += 22
    for i in range(start, stop):
        shown = _shown(tokens.texts[i])
        wide = out.measure(shown, 12.5)
        if x + wide > 16 + TEXT and x > 16:
            x, y = 16.0, y + 22
        if y + 22 > out.height:
            return
        v = float(shares[i]) / high if high else 0.0
        if abs(v) >= FAINTEST:
            fill = FOR if v > 0 else AGAINST
            out.rect(x, y, wide, 18, fill=fill, opacity=0.62 * abs(v) ** 0.5)
        if i >= why.position:
            out.rect(x, y, wide, 18, stroke="#2558c9")
        out.text(x, y + 13.5, shown, 12.5)
        x += wide
        if "\n" in tokens.texts[i]:
            x, y = 16.0, y + 22


def _draw_parts(out: Drawing, why) -> None:
    """The parts with the largest shares, a bar to the right for, to the left against."""
    parts = sorted(why.parts, key=lambda part: -abs(part.share))[:PARTS]
    if not parts:
        return
    out.text(LEFT, 80, "Parts for and against", 13, bold=True)
    high, middle, half = abs(parts[0].share) or 1.0, LEFT + 250, 90
    for k, part in enumerate(parts):
        y = 98 + 26 * k
        out.text(LEFT, y + 13, str(part).replace("_", "-"), 12)
        out.rect(middle - half, y + 3, 2 * half, 12, fill=SUNKEN)
        wide = half * abs(part.share) / high
        x = middle if part.share >= 0 else middle - wide
        out.rect(x, y + 3, wide, 12, fill=FOR if part.share >= 0 else AGAINST)
        out.line([(middle, y), (middle, y + 18)], LINE)
        out.text(WIDTH - 16, y + 13, f"{part.share:+.2f}", 12, INK, "end")
