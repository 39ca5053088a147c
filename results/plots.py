"""Plots: score histograms, ROC curves, figures over shots and over methods.

They are built without pyplot, which would change global state and may need a display.
"""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from ood.metrics import PRIMARY, auroc, fpr_at_tpr, roc_points, threshold_at_tpr

DPI = 130
BINS, FEW_IMAGES = 60, 500  # smaller sets get half the bins
# Okabe and Ito's palette without its yellow: distinct under any common colour blindness.
SET_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000001")
OOD_COLOUR, ID_COLOUR = SET_COLOURS[:2]
TEXT_COLOUR, LINE_COLOUR = "#444444", "#777777"
# Extreme scores beyond these percentiles would squeeze everything else into a few bins.
RANGE_PERCENTILES = (0.05, 99.95)
HEADROOM = 0.42  # room for a histogram's legend above the bars, as a share of their height
KEPT = "95 % of ID kept"  # label of a threshold's line
METHOD_METRICS = {PRIMARY: "FPR95 (%), ID positive; lower is better", "auroc": "AUROC (%)"}


def histograms(
    id_scores: np.ndarray, ood_sets: Mapping[str, np.ndarray], score: str, title: str = ""
) -> Figure:
    """Draw a panel per OOD set: densities of its scores [m] and ID scores [n], in shared bins."""
    bins = _shared_bins(id_scores, ood_sets)
    columns = min(len(ood_sets), 2 if len(ood_sets) in (2, 4) else 3)
    rows = -(-len(ood_sets) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.1 * rows + 0.7), dpi=DPI)
    margins = _margins(figure, left=0.4, right=0.2, bottom=0.65, top=0.85)
    margins |= {"wspace": 0.06, "hspace": 0.27}
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, gridspec_kw=margins).flat
    for axes, (name, values) in zip(panels, ood_sets.items(), strict=False):
        _draw_histogram(axes, bins, id_scores, name, values)
    for axes in panels[len(ood_sets) :]:
        axes.remove()
    figure.suptitle(title or f"{score}: ID against OOD", fontsize=12, fontweight="bold")
    figure.supxlabel(f"{score} score (higher = in-distribution)", fontsize=10)
    figure.supylabel("density", x=0.1 / figure.get_figwidth(), fontsize=10)
    return figure


def _shared_bins(id_scores: np.ndarray, ood_sets: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the edges of the bins in which the histograms of all sets are drawn."""
    values = np.concatenate([id_scores, *ood_sets.values()]).astype(np.float64)
    low, high = np.percentile(values, RANGE_PERCENTILES)
    if not high > low:  # (nearly) all scores are equal
        low, high = values.min() - 0.5, values.max() + 0.5
    few = min(map(len, ood_sets.values())) < FEW_IMAGES
    return np.linspace(low, high, (BINS // 2 if few else BINS) + 1)


def _draw_histogram(
    axes: Axes, bins: np.ndarray, inside: np.ndarray, name: str, outside: np.ndarray
) -> None:
    for values, colour, part in ((inside, ID_COLOUR, "ID"), (outside, OOD_COLOUR, name)):
        clipped = np.clip(values, bins[0], bins[-1])  # the outer bins hold the tails
        density, _ = np.histogram(clipped, bins, density=True)
        axes.stairs(density, bins, fill=True, color=colour, alpha=0.35)
        label = f"{part} ({len(values):,})"
        axes.stairs(density, bins, color=colour, linewidth=1.3, label=label)
    threshold = threshold_at_tpr(inside, outside).threshold
    if bins[0] <= threshold <= bins[-1]:
        line = {"color": TEXT_COLOUR, "linewidth": 1, "linestyle": "--"}
        axes.axvline(threshold, ymax=1 / (1 + HEADROOM), label=KEPT, **line)
    rates = "AUROC {:.2f}, FPR95 (ID pos.) {:.2f}".format(*_rates(inside, outside))
    axes.set_title(f"{name}\n{rates}", fontsize=10)
    axes.set_yticks([])  # the heights of a density in units of 1/score say nothing
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    axes.margins(y=HEADROOM)
    axes.legend(loc="upper right", fontsize=8.5, frameon=False, handlelength=1.2)
    _tidy(axes)


def roc(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str) -> Figure:
    """Draw ROC curves, ID positive, and the line at which 95 % of the ID images are kept.

    Args:
        curves: label -> (ID scores [n], OOD scores [m]).
    """
    figure = Figure(figsize=(5.2, 5.0), dpi=DPI)
    margins = _margins(figure, left=0.65, right=0.15, bottom=0.6, top=0.45)
    axes = figure.subplots(gridspec_kw=margins)
    # 7 colours and 4 styles make 28 different lines; both lists must have that length.
    axes.set_prop_cycle(color=4 * SET_COLOURS, linestyle=7 * ("-", "--", "-.", ":"))
    axes.plot([0, 100], [0, 100], color=LINE_COLOUR, linewidth=1, linestyle=(0, (2, 3)))
    axes.axhline(95, color=TEXT_COLOUR, linewidth=1, label=KEPT)
    for label, (inside, outside) in curves.items():
        x, y = roc_points(inside, outside)
        label = "{}: {:.2f}, {:.2f}".format(label, *_rates(inside, outside))
        axes.plot(100 * x, 100 * y, linewidth=1.8, label=label)
    axes.set(xlim=(0, 100), ylim=(0, 102), aspect="equal", yticks=(0, 20, 40, 60, 80, 95, 100))
    axes.set_xlabel("OOD images kept (%)  =  false positive rate", color=TEXT_COLOUR)
    axes.set_ylabel("ID images kept (%)  =  true positive rate", color=TEXT_COLOUR)
    axes.set_title(title, fontsize=12, fontweight="bold", pad=12)
    legend = {"fontsize": 8.5, "framealpha": 0.9, "edgecolor": "none", "alignment": "left"}
    title = "AUROC, FPR95 (ID pos.)"
    axes.legend(loc="lower right", title=title, title_fontsize=8.5, **legend)
    _tidy(axes)
    return figure


def shots_plot(lines: Mapping[str, Mapping[int, Sequence[float]]], title: str) -> Figure:
    """Draw a metric over the number of training images per class, with a line for each method.

    Args:
        lines: method -> shots -> the metric of each run, as fractions.
    """
    figure = Figure(figsize=(6.4, 4.2), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=SET_COLOURS)
    for label, runs in lines.items():
        shots = sorted(runs)
        means = [100 * np.mean(runs[n]) for n in shots]
        spread = [100 * np.std(runs[n], ddof=1) if len(runs[n]) > 1 else 0 for n in shots]
        axes.errorbar(shots, means, spread, label=label, linewidth=1.8, marker="o", capsize=3)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({n for runs in lines.values() for n in runs}))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("training images per class", color=TEXT_COLOUR)
    axes.set_title(title, fontsize=12, fontweight="bold", pad=12)
    axes.legend(fontsize=8.5, framealpha=0.9, edgecolor="none")
    _tidy(axes)
    return figure


def over_methods(
    figures: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]],
    ood_sets: Sequence[str],
    title: str,
) -> Figure:
    """Draw FPR95 and AUROC of several methods: a dot for each run and OOD set, a bar for the mean.

    Args:
        figures: method -> for each run: OOD set or mean over sets -> metric -> fraction.
        ood_sets: the names among these that are sets; means over sets are drawn in black.
    """
    names = list(next(iter(figures.values()))[0])
    height = 1.4 + len(figures) * (0.15 + 0.11 * len(names))
    figure = Figure(figsize=(7, height), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    offsets = 0.8 * ((np.arange(len(names)) + 0.5) / len(names) - 0.5)  # from the method's row
    for axes, (metric, label) in zip(panels, METHOD_METRICS.items(), strict=True):
        for i, name in enumerate(names):
            colour = SET_COLOURS[i % len(SET_COLOURS)] if name in ood_sets else "black"
            for row, runs in enumerate(figures.values()):
                x, y = [100 * run[name][metric] for run in runs], row + offsets[i]
                marks = axes.plot(x, [y] * len(x), "o", color=colour, alpha=0.6, markersize=4)
                marks[0].set_label("" if row else name)
                axes.plot(np.mean(x), y, "|", color=colour, markersize=9, markeredgewidth=1.6)
        axes.set_xlabel(label, color=TEXT_COLOUR, fontsize=9)
        axes.set_yticks(range(len(figures)), figures)
        _tidy(axes)
    panels[0].invert_yaxis()
    entries = panels[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=3, fontsize=8.5, frameon=False)
    figure.suptitle(title, fontsize=12, fontweight="bold")
    return figure


def _rates(id_scores: np.ndarray, ood_scores: np.ndarray) -> tuple[float, float]:
    """Return AUROC and FPR95 (ID positive, nearest) in percent."""
    return 100 * auroc(id_scores, ood_scores), 100 * fpr_at_tpr(id_scores, ood_scores)


def _margins(figure: Figure, left: float, right: float, bottom: float, top: float) -> dict:
    """Return margins in inches as fractions of the figure; a layout engine would be slower."""
    width, height = figure.get_size_inches()
    sides = {"left": left / width, "right": 1 - right / width}
    return sides | {"bottom": bottom / height, "top": 1 - top / height}


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE_COLOUR)
    axes.tick_params(color=LINE_COLOUR, labelcolor=TEXT_COLOUR, labelsize=9)
    axes.grid(alpha=0.25, linewidth=0.6, color=LINE_COLOUR)
    axes.set_axisbelow(True)


def as_svg(figure: Figure) -> str:
    """Return the figure as an SVG data URL; its text stays text."""
    file = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "path.simplify_threshold": 0.4}):
        figure.savefig(file, format="svg")
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
