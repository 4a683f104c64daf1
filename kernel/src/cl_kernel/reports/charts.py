"""Charts as inline SVG: colours come from the page's style sheet, so they follow light and dark.

Shapes: P points of a line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from attrs import frozen

WIDTH, HEIGHT = 340, 235
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 40
N_COLOURS = 8


@frozen(kw_only=True)
class Line:
    """A curve with a band: ``mean`` [P], ``spread`` [P] on both sides; None where unmeasured."""

    label: str
    index: int
    mean: Sequence[float | None]
    spread: Sequence[float | None]


@frozen(kw_only=True)
class Dot:
    """A point of a scatter plot with its deviation in y."""

    label: str
    index: int
    x: float
    y: float
    spread: float | None = None


def style_of(index: int) -> str:
    """Class names of a series: eight colours, then the same dashed."""
    return f"s{index % N_COLOURS} d{index // N_COLOURS % 3}"


def mark(kind: str, index: int) -> str:
    """Attributes of a part of a series: how it looks, and its number, by which it is shown and hidden."""
    return f'class="{kind} {style_of(index)}" data-s="{index}"'


def lines(curves: Sequence[Line], *, x_label: str, y_label: str, top: float | None = 1.0) -> str:
    """Curves over 1, 2, 3, ...

    :param top: end of the y axis, if nothing lies above it; None fits the data.
    """
    n = max(len(curve.mean) for curve in curves)
    ends = [
        m + sign * (s or 0.0)
        for curve in curves
        for m, s in zip(curve.mean, curve.spread, strict=True)
        if m is not None
        for sign in (-1, 1)
    ]
    low, high = min([0.0, *ends]), max([*ends, top if top is not None else 1e-9])
    if top is not None and low > -0.05:
        low = 0.0
    frame = _Frame(x=(1.0, float(max(n, 2))), y=(low, high))
    step = max(1, math.ceil(n / 10))
    parts = [frame.axes([(float(k), str(k)) for k in range(1, n + 1, step)], x_label, y_label)]
    for curve in curves:
        points = [
            (k + 1.0, m, s or 0.0)
            for k, (m, s) in enumerate(zip(curve.mean, curve.spread, strict=True))
            if m is not None
        ]
        if any(s > 0 for _, _, s in points):
            outline = [(x, m + s) for x, m, s in points] + [(x, m - s) for x, m, s in reversed(points)]
            parts.append(f'<polygon {mark("band", curve.index)} points="{frame.path(outline)}"/>')
    for curve in curves:
        points = [(k + 1.0, m, 0.0) for k, m in enumerate(curve.mean) if m is not None]
        named = f"<title>{escape(curve.label)}</title>"
        way = frame.path([(x, m) for x, m, _ in points])
        parts.append(f'<polyline {mark("line", curve.index)} points="{way}">{named}</polyline>')
        parts += [
            f'<circle {mark("dot", curve.index)} cx="{frame.px(x):.1f}" cy="{frame.py(m):.1f}" r="2.6">'
            f"<title>{escape(curve.label)}: {m:.3f} after {x:.0f}</title></circle>"
            for x, m, _ in points
        ]
    return _svg(parts, f"{y_label} over {x_label}")


def scatter(dots: Sequence[Dot], *, x_label: str, y_label: str) -> str:
    """Points with error bars; the x axis is logarithmic when it spans more than a factor of eight."""
    log = max(dot.x for dot in dots) > 8 * min(dot.x for dot in dots) > 0
    place = math.log10 if log else float
    xs = [place(dot.x) for dot in dots]
    margin = 0.08 * (max(xs) - min(xs)) or 0.5 * max(xs) or 0.5
    low = min([0.0, *(dot.y - (dot.spread or 0.0) for dot in dots)])
    high = max([1.0, *(dot.y + (dot.spread or 0.0) for dot in dots)])
    frame = _Frame(x=(min(xs) - margin, max(xs) + margin), y=(low, high))
    ticks = (
        [(math.log10(v), _short(v)) for v in _log_ticks(10 ** frame.x[0], 10 ** frame.x[1])]
        if log
        else [(v, _short(v)) for v in _ticks(*frame.x, 5)]
    )
    parts = [frame.axes(ticks, x_label, y_label)]
    for dot, x in zip(dots, xs, strict=True):
        px, py = frame.px(x), frame.py(dot.y)
        if dot.spread:
            up, down = frame.py(dot.y + dot.spread), frame.py(dot.y - dot.spread)
            parts.append(f'<path {mark("line", dot.index)} d="M{px:.1f} {up:.1f}V{down:.1f}"/>')
        text = f"{escape(dot.label)}: {dot.y:.3f} at {_short(dot.x)}"
        shape = (
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="5"'
            if dot.index < N_COLOURS
            else f'<rect x="{px - 4.5:.1f}" y="{py - 4.5:.1f}" width="9" height="9"'
        )
        tag = "circle" if dot.index < N_COLOURS else "rect"
        parts.append(f"{shape} {mark('dot', dot.index)}><title>{text}</title></{tag}>")
    return _svg(parts, f"{y_label} against {x_label}")


def key(index: int) -> str:
    """The legend's sample of a series."""
    return (
        f'<svg class="key" viewBox="0 0 26 10" aria-hidden="true"><path class="line {style_of(index)}" d="M1 5H25"/>'
        f'<circle class="dot {style_of(index)}" cx="13" cy="5" r="3.2"/></svg>'
    )


@frozen(kw_only=True)
class _Frame:
    x: tuple[float, float]
    y: tuple[float, float]

    def px(self, x: float) -> float:
        return LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)

    def py(self, y: float) -> float:
        return HEIGHT - BOTTOM - (y - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM)

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{self.px(x):.1f},{self.py(y):.1f}" for x, y in points)

    def axes(self, x_ticks: Sequence[tuple[float, str]], x_label: str, y_label: str) -> str:
        parts = []
        for value in _ticks(*self.y, 5):
            at = self.py(value)
            parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{at + 3.5:.1f}" text-anchor="end">{_short(value)}</text>')
        base = HEIGHT - BOTTOM
        for value, text in x_ticks:
            at = self.px(value)
            parts.append(f'<path class="axis" d="M{at:.1f} {base}v4"/>')
            parts.append(f'<text x="{at:.1f}" y="{base + 15}" text-anchor="middle">{text}</text>')
        parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{base}H{WIDTH - RIGHT}"/>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(f'<text class="name" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
        up = (TOP + base) / 2
        parts.append(
            f'<text class="name" transform="translate(11 {up}) rotate(-90)" text-anchor="middle">'
            f"{escape(y_label)}</text>"
        )
        return "".join(parts)


def _svg(parts: Sequence[str], title: str) -> str:
    about = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}"'
    return f'<svg class="chart" {about}>{"".join(parts)}</svg>'


def _ticks(low: float, high: float, n: int) -> list[float]:
    raw = (high - low) / n
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * k for k in (1, 2, 2.5, 5, 10) if unit * k >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]
        if 3 <= len(found) <= 7:
            return found
    return found[:: max(1, len(found) // 6)] or [10 ** ((math.log10(low) + math.log10(high)) / 2)]


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}" if abs(value) > 1e-9 else "0"
