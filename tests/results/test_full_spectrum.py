"""Full-spectrum figures: shifted ID images count as ID, in tables of their own."""

import numpy as np
import pytest

from ood.metrics import OPENOOD, PRIMARY, ood_metrics
from ood.set_scores import SetScores
from results.files import evaluate_sets, full_spectrum, read_results, write_results
from results.runs import Run
from results.summary import overview, summarise
from results.tables import as_latex, format_figures, format_full_spectrum

RNG = np.random.default_rng(3)
MEANS = {"average": ["A", "B"]}


def part(name, count, shift=0.0, right=None):
    labels = [0] * count
    predictions = None if right is None else [0] * right + [1] * (count - right)
    scores = {"MCM": RNG.normal(shift, size=count).astype(np.float32)}
    paths = [f"{name}/{i}.jpg" for i in range(count)]
    return SetScores(name, paths, scores, None if right is None else labels, predictions)


INSIDE = [part("ID", 100, 2, 80), part("V2", 50, 1, 20), part("C", 30, 0.5, 3)]
OUTSIDE = {"A": part("A", 60), "B": part("B", 40, 0.5)}
SCORES = {name: own.scores for name, own in OUTSIDE.items()}


@pytest.fixture
def write(tmp_path):
    def run(folder="one", inside=INSIDE, primary=OPENOOD):
        figures = evaluate_sets(inside[0].scores, SCORES, MEANS)
        spectrum = full_spectrum(inside, SCORES, MEANS) if len(inside) > 1 else None
        sets = [inside[0], *OUTSIDE.values(), *inside[1:]]
        provenance = {"comparable": {"trainer": folder}}
        more = dict(means=MEANS, primary=primary, full_spectrum=spectrum)
        write_results(tmp_path / folder, figures, sets, provenance, **more)
        return Run(tmp_path / folder, read_results(tmp_path / folder))

    return run


def test_every_id_image_counts_once():
    spectrum = full_spectrum(INSIDE, SCORES, MEANS)
    union = np.concatenate([s.scores["MCM"] for s in INSIDE])
    for name, outside in SCORES.items():
        assert spectrum["figures"]["MCM"][name] == ood_metrics(union, outside["MCM"])
    assert spectrum["sets"] == ["ID", "V2", "C"] and spectrum["accuracy"] == 103 / 180
    text = format_full_spectrum(spectrum, INSIDE, OPENOOD)
    assert "ID, V2, C. ID images: 180." in text
    assert "Accuracy on V2: 40.00 % of 50\n" in text and "all of them: 57.22 % of 180" in text


@pytest.mark.parametrize("primary, other", [(PRIMARY, "fpr95_ood_nearest"), (OPENOOD, PRIMARY)])
def test_the_benchmarks_convention_is_printed_first(primary, other):
    figures = evaluate_sets(INSIDE[0].scores, SCORES)
    row = figures["MCM"]["A"]
    line = next(x for x in format_figures(figures, primary).splitlines() if " A " in x).split()
    shown = (primary, "auroc", "aupr_in", "aupr_out", other)
    assert line[3:] == [f"{100 * row[metric]:.2f}" for metric in shown]


def test_tables_of_their_own(write):
    run = write()
    assert (run.id_set, run.ood_sets, run.primary) == ("ID", ["A", "B"], OPENOOD)
    assert list(run.images) == ["ID", "A", "B"]
    summary = summarise({"one": [run]}, resamples=100)
    blocks = {block.metric: block for block in summary.blocks}
    assert list(blocks)[:3] == [OPENOOD, "auroc", PRIMARY]
    both = [blocks[name].rows[0].figures[0].mean for name in ("auroc", "full_spectrum_auroc")]
    spectrum = run.result["full_spectrum"]
    assert both == [f["MCM"]["A"]["auroc"] for f in (run.figures, spectrum["figures"])]
    accuracy = blocks["accuracy"]
    assert accuracy.columns == ["ID", "V2", "C", "all ID images"]
    assert [f.mean for f in accuracy.rows[0].figures] == [0.8, 0.4, 0.1, 103 / 180]
    assert "OOD positive, lower" in overview(summary)
    cell = f"{100 * run.figures['MCM']['average'][OPENOOD]:.2f}"
    assert cell in overview(summary) and cell in as_latex(summary.blocks, "")


def test_runs_over_other_shifted_sets_are_set_apart(write):
    runs = {"one": [write("one")], "two": [write("two")], "three": [write("three", INSIDE[:2])]}
    summary = summarise({**runs, "four": [write("four", INSIDE[:1])]})
    assert list(summary.groups) == ["one", "two"]
    assert sum("shifted ID set C none (the table: 30)" in note for note in summary.notes) == 2
