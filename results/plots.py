"""Score histograms and ROC curves: as PNG files, and as SVG for a page.

Figures are built without pyplot: nothing global is touched and no display is needed.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from dassl.utils.errors import InputError
from dassl.utils.files import atomic_write
from ood.metrics import auroc, fpr_at_tpr, roc_points

DPI = 130
BINS = 60
# Okabe and Ito's palette without its yellow: told apart with any common colour blindness.
SET_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000001")
SET_STYLES = ("-", "--", "-.", ":")
OOD_COLOUR, ID_COLOUR = SET_COLOURS[:2]
TEXT_COLOUR, LINE_COLOUR = "#444444", "#777777"
# In an SVG each colour is a variable of the page's style, so that it suits light and dark.
CSS = {colour: f"var(--c{i})" for i, colour in enumerate(SET_COLOURS)}
CSS |= {TEXT_COLOUR: "var(--quiet)", LINE_COLOUR: "var(--line)"}
SVG_METADATA = ("Creator", "Date", "Format", "Type")
# Extreme scores beyond these percentiles would squeeze everything else into a few bins.
RANGE_PERCENTILES = (0.05, 99.95)


def shared_bins(id_scores: np.ndarray, ood_sets: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return edges [BINS + 1] of the bins in which the histograms of all sets are drawn."""
    if not ood_sets:
        raise InputError("no OOD set to plot against: name at least one")
    values = np.concatenate([id_scores, *ood_sets.values()]).astype(np.float64)
    low, high = np.percentile(values, RANGE_PERCENTILES)
    if not high > low:  # (nearly) all scores equal
        low, high = values.min() - 0.5, values.max() + 0.5
    return np.linspace(low, high, BINS + 1)


def rates(id_scores: np.ndarray, ood_scores: np.ndarray) -> str:
    """Return AUROC and FPR95 (ID positive, nearest) in percent, as text."""
    return (
        f"AUROC {100 * auroc(id_scores, ood_scores):.2f}, "
        f"FPR95 {100 * fpr_at_tpr(id_scores, ood_scores):.2f}"
    )


def _draw_histogram(
    axes: Axes, bins: np.ndarray, inside: np.ndarray, name: str, outside: np.ndarray
) -> None:
    for values, colour, label in (
        (inside, ID_COLOUR, f"ID ({len(inside):,})"),
        (outside, OOD_COLOUR, f"{name} ({len(outside):,})"),
    ):
        clipped = np.clip(values, bins[0], bins[-1])  # the outer bins hold the tails
        density, _ = np.histogram(clipped, bins, density=True)
        axes.stairs(density, bins, fill=True, color=colour, alpha=0.35)
        axes.stairs(density, bins, color=colour, linewidth=1.3, label=label)
    axes.set_yticks([])  # the heights of a density in units of 1/score say nothing
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    _tidy(axes)


def _draw_roc(axes: Axes, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Draw a curve for each label's (ID scores, OOD scores), and the line at 95 % of ID kept."""
    axes.plot([0, 100], [0, 100], color=LINE_COLOUR, linewidth=1, linestyle=(0, (2, 3)))
    axes.axhline(95, color=TEXT_COLOUR, linewidth=1, label="95 % of ID kept")
    for i, (label, (inside, outside)) in enumerate(curves.items()):
        x, y = roc_points(inside, outside)
        axes.plot(
            100 * x,
            100 * y,
            linewidth=1.8,
            label=label,
            color=SET_COLOURS[i % len(SET_COLOURS)],
            linestyle=SET_STYLES[i % len(SET_STYLES)],
        )
    axes.set(xlim=(0, 100), ylim=(0, 102), aspect="equal", yticks=(0, 20, 40, 60, 80, 95, 100))
    axes.set_xlabel("OOD images kept (%)  =  false positive rate", color=TEXT_COLOUR)
    axes.set_ylabel("ID images kept (%)  =  true positive rate", color=TEXT_COLOUR)
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE_COLOUR)
    axes.tick_params(color=LINE_COLOUR, labelcolor=TEXT_COLOUR, labelsize=9)
    axes.grid(alpha=0.25, linewidth=0.6, color=LINE_COLOUR)
    axes.set_axisbelow(True)


def plot_histograms(
    path: str | os.PathLike,
    id_scores: np.ndarray,
    ood_sets: Mapping[str, np.ndarray],
    score: str,
    title: str = "",
) -> Path:
    """Write a PNG with a panel per OOD set: density of its scores over those of ID, same bins.

    Args:
        path: the file.
        id_scores: [n].
        ood_sets: name -> [m].
        score: its name.
        title: of the figure; empty: names the score.
    """
    bins = shared_bins(id_scores, ood_sets)
    columns = min(len(ood_sets), 2 if len(ood_sets) in (2, 4) else 3)
    rows = -(-len(ood_sets) // columns)
    size = (4.2 * columns, 3.1 * rows + 0.7)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).flat
    for axes, (name, values) in zip(panels, ood_sets.items(), strict=False):
        _draw_histogram(axes, bins, id_scores, name, values)
        axes.set_title(f"{name}\n{rates(id_scores, values)}", fontsize=10)
        axes.margins(y=0.3)  # room for the legend above the bars
        axes.legend(loc="upper right", fontsize=8.5, frameon=False, handlelength=1.2)
    for axes in panels[len(ood_sets) :]:
        axes.remove()
    figure.suptitle(title or f"{score}: ID against OOD", fontsize=12, fontweight="bold")
    figure.supxlabel(f"{score} score (higher = in-distribution)", fontsize=10)
    figure.supylabel("density", fontsize=10)
    return _write_png(figure, path)


def plot_roc(
    path: str | os.PathLike,
    id_scores: np.ndarray,
    ood_sets: Mapping[str, np.ndarray],
    score: str,
    title: str = "",
) -> Path:
    """Write a PNG of the ROC curves of all OOD sets, ID positive; arguments as above."""
    if not ood_sets:
        raise InputError("no OOD set to plot against: name at least one")
    figure = Figure(figsize=(6.4, 6.0), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    curves = {
        f"{name}: {rates(id_scores, values)}": (id_scores, values)
        for name, values in ood_sets.items()
    }
    _draw_roc(axes, curves)
    axes.set_title(title or f"{score}: ROC", fontsize=12, fontweight="bold", pad=12)
    axes.legend(loc="lower right", fontsize=8.5, framealpha=0.9, edgecolor="none")
    return _write_png(figure, path)


def _write_png(figure: Figure, path: str | os.PathLike) -> Path:
    with atomic_write(path, "wb") as file:
        FigureCanvasAgg(figure).print_png(file)
    return Path(path)


def histogram_svg(
    bins: np.ndarray, inside: np.ndarray, outside: np.ndarray, threshold: float, label: str
) -> Markup:
    """Return a histogram of ID and OOD scores; the dashed line is the threshold."""
    figure = Figure(figsize=(4.2, 2.1))
    axes = figure.add_axes((0.03, 0.14, 0.94, 0.84))
    _draw_histogram(axes, bins, inside, "OOD", outside)
    axes.spines["left"].set_visible(False)
    if bins[0] <= threshold <= bins[-1]:
        axes.axvline(threshold, color=TEXT_COLOUR, linewidth=1, linestyle="--")
    return _svg(figure, label)


def roc_svg(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], label: str) -> Markup:
    """Return ROC curves, ID positive; `curves`: name -> (ID scores [n], OOD scores [m])."""
    figure = Figure(figsize=(4.2, 4.1))
    _draw_roc(figure.add_axes((0.14, 0.13, 0.83, 0.85)), curves)
    return _svg(figure, label)


def _svg(figure: Figure, label: str) -> Markup:
    """Return the figure as an element of a page: its text is text, its colours are the page's."""
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    file = io.StringIO()
    # The label salts the names of clip paths, which must differ between the figures of a page.
    settings = {"svg.fonttype": "none", "svg.hashsalt": label, "path.simplify_threshold": 0.4}
    with rc_context(settings):
        FigureCanvasSVG(figure).print_svg(file, metadata=dict.fromkeys(SVG_METADATA))
    text = file.getvalue()
    box = re.search(r'viewBox="[^"]*"', text)[0]
    body = text[text.index("<g id=") : text.rindex("</svg>")]
    body = re.sub(r'(?<=<g) id="[^"]*"|font-family: [^;]*; ', "", body)
    body = re.sub(r'(?<= d=")[^"]*', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), body)
    body = re.sub("|".join(CSS), lambda colour: CSS[colour[0]], body)
    return Markup(f'<svg {box} role="img" aria-label="{escape(label)}">{body}</svg>')
