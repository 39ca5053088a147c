"""Figures over the number of training images a class."""

import pytest

from dassl.utils.figures import save_figure
from results.plots import shots_plot
from results.report.page import over_shots, report_page
from results.summary import summarise


def write(write_run, folder, trainer, shots, seed=1, accuracy=0.5, **comparable):
    return write_run(
        folder / trainer / f"{shots}shots{len(comparable)}/seed{seed}",
        seed,
        trainer,
        accuracy=accuracy,
        training={"shots": shots},
        **comparable,
    )


def test_a_line_a_method(write_run, gather, tmp_path):
    for shots, accuracy in ((1, 0.25), (4, 0.5)):
        for seed in (1, 2):
            write(write_run, tmp_path, "CoOp", shots, seed, accuracy)
    write(write_run, tmp_path, "LoCoOp", 16)  # one number alone: no line
    write_run(tmp_path / "ZeroshotCLIP", 1, "ZeroshotCLIP")
    lines = over_shots(gather([tmp_path]))
    assert lines["ID accuracy (%)"] == {"CoOp": {1: [0.25, 0.25], 4: [0.5, 0.5]}}
    fpr95 = lines["FPR95 (%), ID positive"]
    assert set(fpr95) == {"CoOp MCM", "CoOp GL-MCM"} and len(fpr95["CoOp MCM"][4]) == 2


def test_other_settings_are_other_lines(write_run, gather, tmp_path):
    for shots in (1, 4):
        write(write_run, tmp_path, "LoCoOp", shots, settings={"LAMBDA": 0.25})
        write(write_run, tmp_path, "LoCoOp", shots, settings={"LAMBDA": 1.0}, num_classes=4)
    lines = over_shots(gather([tmp_path]))["ID accuracy (%)"]
    assert set(lines) == {"LoCoOp LAMBDA 0.25", "LoCoOp LAMBDA 1.0"}


def test_runs_with_other_views_are_other_lines(write_run, gather, tmp_path):
    for shots in (1, 4):
        for views in (0, 2):
            training = {"shots": shots} | ({"views": views} if views else {})
            folder = tmp_path / f"CoOp/{views}views_{shots}shots/seed1"
            write_run(folder, 1, "CoOp", accuracy=0.5 + views / 10, training=training)
    lines = over_shots(gather([tmp_path]))["ID accuracy (%)"]
    assert lines == {"CoOp views 0": {1: [0.5], 4: [0.5]}, "CoOp views 2": {1: [0.7], 4: [0.7]}}


@pytest.mark.slow
@pytest.mark.parametrize("several", [True, False])
def test_the_report_shows_them(write_run, gather, tmp_path, several):
    for shots in (1, 4) if several else (4,):
        write(write_run, tmp_path, "CoOp", shots)
    page = report_page(summarise(gather([tmp_path])))
    assert ('id="shots"' in page) == several


def test_the_plot(tmp_path):
    lines = {"CoOp": {1: [0.2, 0.3], 16: [0.5]}, "LoCoOp": {2: [0.4], 4: [0.6, 0.5]}}
    assert (
        save_figure(shots_plot(lines, "ID accuracy (%)"), tmp_path / "a.png").stat().st_size > 5000
    )
