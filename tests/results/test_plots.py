"""Plots: files of the right kind and size, whatever the scores look like."""

import base64
import re

import numpy as np
import pytest
from PIL import Image

from dassl.utils.figures import save_figure
from ood.metrics import PRIMARY
from results import plots
from results.plots import as_svg, histograms, over_methods, roc

RNG = np.random.default_rng(2)
ID = RNG.normal(1, 1, 300).astype(np.float32)


def sets(count):
    return {f"set {i}": RNG.normal(-i / 3, 1, 80).astype(np.float32) for i in range(count)}


def size(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert len(np.unique(np.array(image.convert("L")))) > 20  # something is drawn
        return image.size


@pytest.mark.parametrize("count, columns, rows", [(1, 1, 1), (2, 2, 1), (4, 2, 2), (5, 3, 2)])
def test_a_panel_per_set(tmp_path, count, columns, rows):
    path = save_figure(histograms(ID, sets(count), "MCM"), tmp_path / "plots" / "MCM.png")
    assert size(path) == (round(4.2 * columns * plots.DPI), int((3.1 * rows + 0.7) * plots.DPI))


def test_roc(tmp_path):
    curves = {name: (ID, values) for name, values in sets(9).items()}
    path = save_figure(roc(curves, "zero-shot, $not_math"), tmp_path / "roc.png")
    assert size(path) == (676, 650)


def test_plots_name_the_convention_of_fpr95_and_the_line_of_the_threshold():
    figures = histograms(ID, sets(2), "MCM"), roc({"SUN": (ID, ID - 1)}, "MCM: ROC")
    for axes in (axes for figure in figures for axes in figure.axes):
        legend = axes.get_legend()
        assert "FPR95 (ID pos.)" in axes.get_title() + legend.get_title().get_text()
        assert plots.KEPT in [text.get_text() for text in legend.get_texts()]
    figures[0].draw_without_rendering()
    for axes in figures[0].axes:
        (line,), legend = axes.lines, axes.get_legend()
        assert line.get_window_extent().y1 < legend.get_window_extent().y0


def test_over_methods_every_run_is_a_dot_and_the_mean_a_bar():
    run = {"SUN": {PRIMARY: 0.25, "auroc": 0.5}, "average": {PRIMARY: 0.375, "auroc": 0.75}}
    other = {"SUN": {PRIMARY: 0.75, "auroc": 1.0}, "average": {PRIMARY: 0.625, "auroc": 0.75}}
    figure = over_methods({"CoOp": [run, other], "a $method": [other]}, ["SUN"], "MCM")
    for axes, sun in zip(figure.axes, ((25, 75, 50), (50, 100, 75)), strict=True):
        dots, bars = axes.lines[::2], axes.lines[1::2]
        assert dots[0].get_xdata() == pytest.approx(sun[:2])
        assert bars[0].get_xdata() == pytest.approx(sun[2:]) and len(dots) == len(bars) == 4
    rows = [np.mean([line.get_ydata()[0] for line in bars[i::2]]) for i in (0, 1)]
    assert rows == pytest.approx([0, 1])
    figure.draw_without_rendering()
    for text in (*figure.axes[0].get_yticklabels(), *figure.legends[0].get_texts()):
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0


@pytest.mark.parametrize(
    "inside, outside",
    [
        (np.full(5, 0.1), np.full(4, 0.1)),
        (np.ones(1), np.zeros(1)),
        (np.array([0.0, 1e30]), np.array([-1e30, 5.0])),
        (1e-3 + 1e-9 * np.arange(50), 1e-3 + 1e-9 * np.arange(20)),
    ],
)
def test_odd_scores(tmp_path, inside, outside):
    size(save_figure(histograms(inside, {"x": outside}, "Energy"), tmp_path / "h.png"))
    size(save_figure(roc({"x": (inside, outside)}, "Energy"), tmp_path / "r.png"))


def test_nothing_half_written(tmp_path, monkeypatch):
    def die(figure, file, **settings):
        file.write(b"half")
        raise KeyboardInterrupt

    figure = roc({"x": (ID, ID)}, "MCM")
    monkeypatch.setattr(plots.Figure, "savefig", die)
    with pytest.raises(KeyboardInterrupt):
        save_figure(figure, tmp_path / "roc.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [0.3, 1e-7])
def test_svg_of_equal_scores(value):
    same = np.full(20, value, dtype=np.float32)
    for figure in (histograms(same, {"a <b>": same}, "MCM"), roc({"a <b>": (same, same)}, "r")):
        text = base64.b64decode(as_svg(figure).partition(",")[2]).decode()
        assert "nan" not in text and "a &lt;b&gt;" in text


def test_ticks_keep_their_digits():
    values = np.linspace(0.1231, 0.1239, 50)
    text = base64.b64decode(as_svg(histograms(values, {"x": values}, "x")).partition(",")[2])
    assert re.findall(r">(0\.12\d+)</text>", text.decode())[0] in ("0.1232", "0.1231")
