"""Plots: files of the right kind and size, whatever the scores look like."""

import numpy as np
import pytest
from PIL import Image

import results.plots as plots
from dassl.utils.errors import InputError
from results.plots import plot_histograms, plot_roc

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
    path = plot_histograms(tmp_path / "plots" / "MCM.png", ID, sets(count), "MCM")
    assert size(path) == (round(4.2 * columns * plots.DPI), int((3.1 * rows + 0.7) * plots.DPI))


def test_roc(tmp_path):
    path = plot_roc(tmp_path / "roc.png", ID, sets(9), "MCM", title="zero-shot, $not_math")
    assert size(path) == (832, 780)


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
    size(plot_histograms(tmp_path / "h.png", inside, {"x": outside}, "Energy"))
    size(plot_roc(tmp_path / "r.png", inside, {"x": outside}, "Energy"))


def test_no_set(tmp_path):
    for plot in (plot_histograms, plot_roc):
        with pytest.raises(InputError, match="no OOD set"):
            plot(tmp_path / "x.png", ID, {}, "MCM")


def test_nothing_half_written(tmp_path, monkeypatch):
    def die(canvas, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(plots.FigureCanvasAgg, "print_png", die)
    with pytest.raises(KeyboardInterrupt):
        plot_roc(tmp_path / "roc.png", ID, sets(1), "MCM")
    assert not list(tmp_path.iterdir())
