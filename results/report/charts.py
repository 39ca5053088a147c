"""Score histograms and ROC curves as inline SVG: crisp at any size, coloured by the page's CSS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

from ood.metrics import roc_points

CURVE_POINTS = 160


class Box(NamedTuple):
    """The plotting area inside an SVG of `width` x `height` user units."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int

    def x(self, share: float) -> float:
        return self.left + share * (self.width - self.left - self.right)

    def y(self, share: float) -> float:
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)

    def points(self, x: np.ndarray, y: np.ndarray) -> str:
        """Shares of the area as the points of a line."""
        return " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in zip(x, y, strict=True))


HISTOGRAM = Box(340, 150, 8, 8, 8, 22)
ROC = Box(340, 320, 38, 10, 10, 38)


def histogram(
    bins: np.ndarray, inside: np.ndarray, outside: np.ndarray, threshold: float, label: str
) -> Markup:
    """Densities of ID and OOD scores in the same bins; the dashed line is the threshold."""
    heights = {name: _density(values, bins) for name, values in (("id", inside), ("ood", outside))}
    top = max(h.max() for h in heights.values()) * 1.04
    parts = [_area(h / top, f"area {name}") for name, h in heights.items()]
    low, high = bins[0], bins[-1]
    if low <= threshold <= high:
        x = HISTOGRAM.x((threshold - low) / (high - low))
        parts.append(_line(x, HISTOGRAM.y(0), x, HISTOGRAM.y(1), "cut"))
    parts.append(_line(HISTOGRAM.x(0), HISTOGRAM.y(0), HISTOGRAM.x(1), HISTOGRAM.y(0), "axis"))
    for tick in MaxNLocator(4).tick_values(low, high):
        if low <= tick <= high:
            x = HISTOGRAM.x((tick - low) / (high - low))
            anchor = "end" if x > HISTOGRAM.width - 25 else "start" if x < 25 else "middle"
            parts.append(_text(x, HISTOGRAM.height - 7, f"{tick:.4g}", anchor))
    return _svg(HISTOGRAM, label, parts)


def _density(values: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Share of the values in each bin; the outer bins hold the tails."""
    counts, _ = np.histogram(np.clip(values, bins[0], bins[-1]), bins)
    return counts / len(values)


def _area(heights: np.ndarray, kind: str) -> str:
    x = np.repeat(np.linspace(0, 1, len(heights) + 1), 2)
    y = np.concatenate([[0], np.repeat(heights, 2), [0]])
    return f'<polygon class="{kind}" points="{HISTOGRAM.points(x, y)}"/>'


def roc(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], label: str) -> Markup:
    """ROC curves with ID positive; `curves`: name -> (ID scores, OOD scores), coloured in order."""
    parts = []
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1):
        parts.append(_line(ROC.x(tick), ROC.y(0), ROC.x(tick), ROC.y(1), "grid"))
        parts.append(_line(ROC.x(0), ROC.y(tick), ROC.x(1), ROC.y(tick), "grid"))
        parts.append(_text(ROC.x(tick), ROC.y(0) + 15, f"{100 * tick:.0f}", "middle"))
        parts.append(_text(ROC.x(0) - 6, ROC.y(tick) + 4, f"{100 * tick:.0f}", "end"))
    parts.append(_line(ROC.x(0), ROC.y(0), ROC.x(1), ROC.y(1), "chance"))
    parts.append(_line(ROC.x(0), ROC.y(0.95), ROC.x(1), ROC.y(0.95), "cut"))
    for i, scores in enumerate(curves.values()):
        points = ROC.points(*_thinned(*roc_points(*scores)))
        parts.append(f'<polyline class="curve c{i % 7}" points="{points}"/>')
    parts.append(_text(ROC.x(0.5), ROC.height - 6, "OOD images kept (%)", "middle"))
    parts.append(
        f'<text text-anchor="middle" transform="translate(10 {ROC.y(0.5):.0f}) rotate(-90)">'
        "ID images kept (%)</text>"
    )
    return _svg(ROC, label, parts)


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A monotone curve by points about equally far apart along it; corners may be cut by 1/80."""
    if len(x) <= CURVE_POINTS:
        return x, y
    along = x + y  # rises from 0 to 2
    kept = np.unique(np.searchsorted(along, np.linspace(0, 2, CURVE_POINTS)))
    kept = np.append(kept[kept < len(x) - 1], len(x) - 1)
    return x[kept], y[kept]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(box: Box, label: str, parts: list[str]) -> Markup:
    head = f'<svg viewBox="0 0 {box.width} {box.height}" role="img" aria-label="{escape(label)}">'
    return Markup("".join([head, *parts, "</svg>"]))
