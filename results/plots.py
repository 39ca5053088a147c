"""Score histograms and ROC curves as PNG files.

Figures are built without pyplot: nothing global is touched and no display is needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from dassl.utils.errors import InputError
from dassl.utils.files import atomic_write
from ood.metrics import auroc, fpr_at_tpr, roc_points

DPI = 130
BINS = 60
ID_COLOUR, OOD_COLOUR = "#0072B2", "#D55E00"
# Okabe and Ito's palette without its yellow: told apart with any common colour blindness.
SET_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SET_STYLES = ("-", "--", "-.", ":")
# Extreme scores beyond these percentiles would squeeze everything else into a few bins.
RANGE_PERCENTILES = (0.05, 99.95)


def _save(figure: Figure, path: str | os.PathLike) -> Path:
    with atomic_write(path, "wb") as file:
        FigureCanvasAgg(figure).print_png(file)
    return Path(path)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#777777")
    axes.tick_params(color="#777777", labelsize=9)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def shared_bins(id_scores: np.ndarray, ood_sets: Mapping[str, np.ndarray]) -> np.ndarray:
    """Edges [BINS + 1] of the bins in which the histograms of all sets are drawn."""
    values = np.concatenate([id_scores, *ood_sets.values()]).astype(np.float64)
    low, high = np.percentile(values, RANGE_PERCENTILES)
    if not high > low:  # (nearly) all scores equal
        low, high = values.min() - 0.5, values.max() + 0.5
    return np.linspace(low, high, BINS + 1)


def _rates(id_scores: np.ndarray, ood_scores: np.ndarray) -> str:
    return (
        f"AUROC {100 * auroc(id_scores, ood_scores):.2f}, "
        f"FPR95 {100 * fpr_at_tpr(id_scores, ood_scores):.2f}"
    )


def _panel(axes: Axes, bins: np.ndarray, inside: np.ndarray, name: str, ood: np.ndarray) -> None:
    for values, colour, label in (
        (inside, ID_COLOUR, f"ID ({len(inside):,})"),
        (ood, OOD_COLOUR, f"{name} ({len(ood):,})"),
    ):
        clipped = np.clip(values, bins[0], bins[-1])  # the outer bins hold the tails
        style = {"bins": bins, "density": True, "color": colour}
        axes.hist(clipped, histtype="stepfilled", alpha=0.35, **style)
        axes.hist(clipped, histtype="step", linewidth=1.3, label=label, **style)
    axes.set_title(name, fontsize=11, pad=18)
    axes.text(
        0.5,
        1.02,
        _rates(inside, ood),
        transform=axes.transAxes,
        ha="center",
        fontsize=9,
        color="#444444",
    )
    axes.margins(y=0.3)  # room for the legend above the bars
    axes.set_yticks([])  # the heights of a density in units of 1/score say nothing
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    axes.legend(loc="upper right", fontsize=8.5, frameon=False, handlelength=1.2)
    _tidy(axes)


def _check(ood_sets: Mapping[str, np.ndarray]) -> None:
    if not ood_sets:
        raise InputError("no OOD set to plot against: name at least one")


def plot_histograms(
    path: str | os.PathLike,
    id_scores: np.ndarray,
    ood_sets: Mapping[str, np.ndarray],
    score: str,
    title: str = "",
) -> Path:
    """One panel per OOD set: density of its scores over those of ID, in shared bins.

    ``id_scores`` [n], ``ood_sets`` name -> [m]; AUROC and FPR95 (ID positive, nearest) in percent.
    """
    _check(ood_sets)
    columns = min(len(ood_sets), 2 if len(ood_sets) in (2, 4) else 3)
    rows = -(-len(ood_sets) // columns)
    size = (4.2 * columns, 3.1 * rows + 0.7)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True)
    bins = shared_bins(id_scores, ood_sets)
    for axes, (name, values) in zip(panels.flat, ood_sets.items(), strict=False):
        _panel(axes, bins, id_scores, name, values)
    for axes in panels.flat[len(ood_sets) :]:
        axes.remove()
    figure.suptitle(title or f"{score}: ID against OOD", fontsize=12, fontweight="bold")
    figure.supxlabel(f"{score} score (higher = in-distribution)", fontsize=10)
    figure.supylabel("density", fontsize=10)
    return _save(figure, path)


def plot_roc(
    path: str | os.PathLike,
    id_scores: np.ndarray,
    ood_sets: Mapping[str, np.ndarray],
    score: str,
    title: str = "",
) -> Path:
    """ROC curves of all OOD sets, ID positive, with the line where 95 % of ID is kept."""
    _check(ood_sets)
    figure = Figure(figsize=(6.4, 6.0), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color="#BBBBBB", linewidth=1, linestyle=(0, (2, 3)))
    axes.axhline(95, color="#666666", linewidth=1, label="95 % of ID kept")
    for i, (name, values) in enumerate(ood_sets.items()):
        x, y = roc_points(id_scores, values)
        axes.plot(
            100 * x,
            100 * y,
            linewidth=1.8,
            label=f"{name}: {_rates(id_scores, values)}",
            color=SET_COLOURS[i % len(SET_COLOURS)],
            linestyle=SET_STYLES[i % len(SET_STYLES)],
        )
    axes.set(xlim=(0, 100), ylim=(0, 102), aspect="equal", yticks=(0, 20, 40, 60, 80, 95, 100))
    axes.set_xlabel("OOD images kept as ID (%)  =  false positive rate", fontsize=10)
    axes.set_ylabel("ID images kept (%)  =  true positive rate", fontsize=10)
    axes.set_title(title or f"{score}: ROC", fontsize=12, fontweight="bold", pad=12)
    axes.legend(loc="lower right", fontsize=8.5, framealpha=0.9, edgecolor="none")
    _tidy(axes)
    return _save(figure, path)
