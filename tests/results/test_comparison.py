"""Two methods on the same images."""

import csv
import re

import numpy as np
import pytest

from dassl.utils.errors import InputError
from results.bootstrap import METRICS, interval, resample, two_sided_p
from results.comparison import Difference, Side, compare, find_sides, format_comparison

RNG = np.random.default_rng(3)


@pytest.fixture
def sides(gather, study):
    return lambda: find_sides(gather([study]), "LoCoOp:MCM", "CoOp:MCM")[0][0]


def test_the_other_way_round_is_the_mirror_image(sides):
    first, second = sides()
    there, back = compare(first, second, 200), compare(second, first, 200)
    assert [d.set_name for d in there[:3]] == ["nature", "indoor", "average"]
    for a, b in zip(there, back, strict=True):
        assert (a.set_name, a.metric) == (b.set_name, b.metric)
        assert (a.first, a.second) == (b.second, b.first)
        assert a.difference == -b.difference
        assert (a.low, a.high) == pytest.approx((-b.high, -b.low), abs=1e-12)
        assert a.p == b.p


def test_a_better_method_is_found_better(study, sides, gather):
    found = {(d.set_name, d.metric): d for d in compare(*sides(), 300)}
    row = found["average", "auroc"]
    assert row.low < row.difference < row.high and row.low > 0
    assert row.p <= 0.01
    runs = {name: gather([study])[name] for name in ("LoCoOp", "CoOp")}
    means = [
        np.mean([r.result["figures"]["MCM"]["average"]["auroc"] for r in own])
        for own in runs.values()
    ]
    assert row.difference == pytest.approx(means[0] - means[1])


def test_intervals_are_those_of_the_mean_over_each_sides_runs(study, gather):
    """With other numbers of runs, and a mean over one of the two sets."""
    groups = gather([study])
    for run in (*groups["LoCoOp"], *groups["ZeroshotCLIP"]):
        run.result["means"] = {"average": ["indoor"]}
        run.figures["MCM"]["average"] |= run.figures["MCM"]["indoor"]
    ((pair,), _), figures = find_sides(groups, "LoCoOp:MCM", "ZeroshotCLIP"), []
    for side in pair:
        inside, *outside = zip(*(run.images.values() for run in side.runs), strict=True)
        scores = {part[0].name: [s.scores["MCM"] for s in part] for part in outside}
        drawn = resample([s.scores["MCM"] for s in inside], scores, 100)[:, :, [0, 1, 1]]
        figures.append(drawn.mean(axis=0))  # [100, sets + mean, 2]
    for row in compare(*pair, 100):
        place = ["nature", "indoor", "average"].index(row.set_name)
        drawn = (figures[0] - figures[1])[:, place, METRICS.index(row.metric)]
        assert (row.low, row.high, row.p) == pytest.approx((*interval(drawn), two_sided_p(drawn)))


def test_the_table_of_a_comparison(study, gather):
    runs = gather([study])["CoOp"]
    sides = Side("a", runs, "MCM"), Side("b", runs[:1], "Energy")
    rows = [Difference("SUN", METRICS[0], 0.5, 0.75, -0.3, -0.2, 0.002)]
    rows.append(Difference("average", "auroc", 0.9, 0.875, -0.01, 0.06, 0.5))
    first, second, _, header, _, *lines = format_comparison(*sides, rows).splitlines()
    assert (first, second) == ("A = a, MCM (3 runs)", "B = b, Energy (1 run)")
    expected = [
        ["metric", "set", "A", "B", "A - B", "95 % interval", "p"],
        ["FPR95, ID pos.", "SUN", "50.00", "75.00", "-25.00", "-30.00 to -20.00", "0.002"],
        ["AUROC", "average", "90.00", "87.50", "+2.50", "-1.00 to +6.00", "0.5"],
    ]
    assert [re.split("  +", line.strip()) for line in (header, *lines)] == expected


def test_an_image_that_is_there_twice_is_said(write_run, tmp_path):
    """In the one file it is the first image, in the other the second."""
    runs = [write_run(tmp_path / name) for name in "ab"]
    for run, twice in zip(runs, (0, 4), strict=True):
        path = run.folder / "scores/nature.csv"
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("class0/8.png", f"class0/{twice}.png"), encoding="utf-8")
    with pytest.raises(InputError, match="80 and 80; one is there twice"):
        compare(Side("a", runs[:1], "MCM"), Side("b", runs[1:], "MCM"), 100)


def test_equal_scores_do_not_differ(write_run, tmp_path):
    runs = [write_run(tmp_path / name) for name in "ab"]
    for row in compare(Side("a", runs[:1], "MCM"), Side("b", runs[1:], "MCM"), 100):
        assert row.low == row.high == row.difference == 0 and row.p == 1


def test_the_order_of_images_does_not_matter(study, sides):
    before = compare(*sides(), 100)
    path = study / "CoOp/16shots/seed2/scores/nature.csv"
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([header, *RNG.permutation(rows)]) + "\n", encoding="utf-8")
    assert compare(*sides(), 100) == before


def test_other_images_are_refused(study, sides):
    path = study / "CoOp/16shots/seed2/scores/nature.csv"
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    rows[5][0] = "nature/other.png"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(
        InputError,
        match=r"same images of nature .*80 and 80; nature/class0/4.png|80 and 80; nature/other.png",
    ):
        compare(*sides(), 100)


def test_what_cannot_be_compared(study, sides, gather, write_run, tmp_path_factory):
    groups = gather([study])
    for arguments, words in (
        (("CoOp", "CoOp"), "compared with itself"),
        (("CoOp", "LoCoop"), "Did you mean 'LoCoOp'"),
        (("CoOp", "LoCo"), "Unknown method 'LoCo'"),
        (("CoOp:MCMM", "LoCoOp"), "CoOp was not evaluated with the score 'MCMM'.*mean 'MCM'"),
        (("LoCoOp", "CoOp:EOE"), "LoCoOp was not evaluated .*--scores MCM,GL-MCM,NAME"),
    ):
        with pytest.raises(InputError, match=words):
            find_sides(groups, *arguments)
    (pair,), notes = find_sides(groups, "CoOp:GL-MCM", "CoOp:MCM")
    assert list(map(str, pair)) == ["CoOp, GL-MCM (3 runs)", "CoOp, MCM (3 runs)"] and not notes
    pairs, _ = find_sides(groups, "CoOp", "LoCoOp")
    assert [first.score for first, _ in pairs] == ["MCM", "GL-MCM"]
    other = write_run(tmp_path_factory.mktemp("other"), sets=("nature",))
    with pytest.raises(
        InputError, match=r"not evaluated on the same images:\n.*OOD set indoor none"
    ):
        find_sides({**groups, "other": [other]}, "CoOp", "other")
    with pytest.raises(InputError, match="at least 100 resamples"):
        compare(*sides(), 10)


@pytest.mark.parametrize("text", ["LoCoOp", "LoCoOp:GL-MCM"])
def test_a_method_with_several_settings_is_named_whole_and_quoted(study, gather, write_run, text):
    write_run(study / "LoCoOp/1shots/seed1", 1, "LoCoOp")
    groups = gather([study])
    listed = r"LoCoOp \(16shots\), LoCoOp \(1shots\)"
    whole = text.replace("LoCoOp", "LoCoOp (16shots)")
    quoted = re.escape(f"Quote a whole name as it is listed, as in --compare '{whole}' ...")
    for pair in ((text, "CoOp"), ("CoOp", text)):
        with pytest.raises(
            InputError, match=rf"LoCoOp has several settings here: {listed}. {quoted}"
        ):
            find_sides(groups, *pair)
    ((first, _), *_), _ = find_sides(groups, whole, "CoOp")
    assert first.method == "LoCoOp (16shots)"


def test_a_name_with_a_colon_is_that_of_a_method(study, gather):
    groups = gather([study])
    groups = {"CoOp (a:b)": groups["CoOp"], "SCT": groups["LoCoOp"]}
    for text, count in (("CoOp (a:b)", 2), ("CoOp (a:b):GL-MCM", 1)):
        pairs, _ = find_sides(groups, text, "SCT")
        assert {first.method for first, _ in pairs} == {"CoOp (a:b)"} and len(pairs) == count


def test_a_stray_run_of_a_side_is_set_apart(study, write_run, gather):
    write_run(study / "CoOp/16shots/seed4", 4, "CoOp", classes="cd34")
    pairs, (note,) = find_sides(gather([study]), "LoCoOp:MCM", "CoOp:MCM")
    assert [len(side.runs) for side in pairs[0]] == [3, 3]
    assert "seed4: classes cd34" in note
    write_run(study / "CoOp/16shots/seed4", 4, "CoOp", scores=("GL-MCM",))
    pairs, (note,) = find_sides(gather([study]), "LoCoOp:MCM", "CoOp:MCM")
    assert [len(side.runs) for side in pairs[0]] == [3, 3]
    assert "seed4: scores found" in note


@pytest.mark.slow
def test_equal_methods_differ_as_often_as_the_level_says():
    """Simulate runs of equal quality on new images: p < 5 % in about 5 % of the trials.

    300 trials at a level of 5 % give 15 +- 3.8 (one standard deviation). FPR95 is careful: it is
    below less often.
    """
    rng, below = np.random.default_rng(5), {"auroc": 0, "fpr95_id_nearest": 0}
    for trial in range(300):
        common = rng.normal(1, 1, 200), rng.normal(0, 1, 150)  # an image is hard for both
        noise = [[c + rng.normal(0, 0.5, len(c)) for _ in "AB"] for c in common]
        figures = resample(noise[0], {"far": noise[1]}, 200, trial)[:, :, -1]
        for k, metric in enumerate(METRICS):
            below[metric] += two_sided_p(figures[0, :, k] - figures[1, :, k]) < 0.05
    assert 4 <= below["auroc"] <= 26
    assert below["fpr95_id_nearest"] <= 26
