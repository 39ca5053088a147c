"""Summarise several runs in tables: python -m results.summary output/imagenet --scores MCM,GL-MCM.

The tables have mean and spread over seeds for each method, and intervals over images where the
per-image scores exist; notes name missing seeds. Two methods can be compared on the same images.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dassl import command
from dassl.utils import InputError, atomic_write, progress_bar
from dassl.utils.tables import markdown_table, text_table
from datasets.folders import counted
from ood.metrics import CONVENTIONS, OPENOOD, PRIMARY
from results import tables
from results.bootstrap import METRICS, RESAMPLES, check_resamples, interval, resample
from results.comparison import NOTE as COMPARISON_NOTE
from results.comparison import compare, find_sides, format_comparison, same_images
from results.files import AVERAGE, write_csv
from results.runs import Groups, Run, comparable_runs, load_groups, missing_seeds
from results.tables import Block, Figure, Row

TITLES = {
    PRIMARY: "FPR95 (%), ID positive, threshold rule: nearest. Lower is better.",
    "auroc": "AUROC (%). Higher is better.",
    "fpr95_ood_nearest": "FPR95 (%), OOD positive, threshold rule: nearest. Lower is better.",
    OPENOOD: "FPR95 (%), OOD positive, threshold rule: first (OpenOOD). Lower is better.",
}
METRICS_SHOWN = {  # the FPR95 that comes first -> the metrics with a table
    PRIMARY: (PRIMARY, "auroc", "fpr95_ood_nearest"),
    OPENOOD: (OPENOOD, "auroc", PRIMARY),
}
FPR95 = {
    PRIMARY: "ID positive, threshold rule: nearest",
    OPENOOD: "OOD positive, threshold rule: first",
}
FULL_SPECTRUM = "Full spectrum: shifted ID images count as ID. "
NOTE = (
    f"Mean ± sample standard deviation over the runs. Average: {CONVENTIONS['average']}. The best "
    "mean of each column is {mark}; no test is implied (`--compare A B` is the test)."
)
CAPTION = (
    "FPR95 ({fpr95}) and AUROC in percent. Mean ± sample standard "
    f"deviation over the runs ({{runs}}). Average: {CONVENTIONS['average']}. Bold: the best mean "
    "of its column; no test is implied."
)
OVERVIEW_NOTE = (
    "Percent, mean over the OOD sets, but for those with a column, ± standard deviation over the "
    "runs. FPR95: {fpr95}, lower is better."
)
INTERVAL_NOTE = "Intervals are by bootstrap over images; they say nothing about other seeds."

Resampled = dict[tuple[str, str], np.ndarray]  # method, score -> [resamples, sets + 1, 2]


@dataclass
class Summary:
    """The tables of several methods, and notes for their reader."""

    groups: Groups
    blocks: list[Block]
    notes: list[str] = field(default_factory=list)

    @property
    def has_intervals(self) -> bool:
        return any(block.has_intervals for block in self.blocks)

    def legend(self, mark: str = "in bold") -> str:
        """Return sentences that explain the cells and name the ID set; `mark` says how the best
        cells are marked."""
        run = _first_run(self.groups)
        names = (run.comparable.get(key) for key in ("dataset", "folder"))
        images = counted(run.result["images"][run.id_set], "image")
        id_set = " ".join(filter(None, names)) or run.id_set
        sentences = [NOTE.format(mark=mark), *[INTERVAL_NOTE] * self.has_intervals]
        return " ".join([*sentences, f"ID: {images} of {id_set}."])

    def as_text(self) -> str:
        """Return tables and notes as plain text."""
        blocks = (tables.titled(block, text_table, "{}*") for block in self.blocks)
        return "\n\n".join([*blocks, self.legend("marked *"), *self.notes])

    def as_markdown(self) -> str:
        """Return tables and notes as the content of a Markdown file."""
        blocks = (tables.titled(block, markdown_table, "**{}**") for block in self.blocks)
        return "\n\n".join([*blocks, self.legend(), *self.notes]) + "\n"


def summarise(groups: Groups, resamples: int = 0) -> Summary:
    """Return the tables of all methods, with intervals if `resamples` is not 0 (InputError if it is
    too small). Runs that cannot share a table are left out and named in the notes."""
    if resamples:
        check_resamples(resamples)
    groups, notes = comparable_runs(groups)
    example = _first_run(groups)
    sets = list(next(iter(example.figures.values())))
    columns = sets if len(sets) > 2 else sets[:1]  # the average of one set is that set
    resampled: Resampled = {}
    methods = groups.items() if resamples else ()
    for name, runs in progress_bar(methods, "resampling images", "method", leave=False):
        try:
            resampled |= _resample(name, runs, resamples)
        except InputError as error:
            notes.append(f"{name} has no intervals: {error}")
    metrics = METRICS_SHOWN[example.primary]
    blocks = [_block(metric, groups, columns, resampled) for metric in metrics]
    if example.spectrum:
        blocks += [_block(m, groups, columns, {}, spectrum=True) for m in metrics[:2]]
    blocks += [*_accuracy_block(groups), *_decision_block(groups, columns)]
    return Summary(groups, blocks, notes + missing_seeds(groups) + _differing(groups))


def _first_run(groups: Groups) -> Run:
    return next(iter(groups.values()))[0]


def _differing(groups: Groups) -> list[str]:
    """Return sentences that state the shots and the backbones of methods that differ in them.

    Shots that all names state already, as in a sweep over shots, are not repeated.
    """
    first = {name: runs[0] for name, runs in groups.items()}
    trainings = {name: run.comparable.get("training") or {} for name, run in first.items()}
    shots = {n: t["shots"] for n, t in trainings.items() if "shots" in t and "pairs" not in t}
    if all(re.search(rf"(?<!\d){count} ?shots?\b", name) for name, count in shots.items()):
        shots = {}
    shots = {name: "all" if count < 0 else count for name, count in shots.items()}
    backbones = {name: run.provenance.get("backbone") for name, run in first.items()}
    facts = {"Shots": shots, "Backbone": {n: b for n, b in backbones.items() if b}}
    return [
        f"{fact}: {', '.join(f'{name} {value}' for name, value in values.items())}."
        for fact, values in facts.items()
        if len(set(values.values())) > 1
    ]


def _resample(name: str, runs: Sequence[Run], resamples: int) -> Resampled:
    """Return for each score of a method the mean over its runs in every resample."""
    scores = list(runs[0].figures)
    inside, outside = same_images([(run, score) for run in runs for score in scores])
    figures = resample(inside, outside, resamples, means=[*runs[0].means.values()])
    means = figures.reshape(len(runs), len(scores), *figures.shape[1:]).mean(axis=0)
    return {(name, score): mean for score, mean in zip(scores, means, strict=True)}


def _block(
    metric: str, groups: Groups, columns: list[str], resampled: Resampled, spectrum: bool = False
) -> Block:
    def figure(method: str, score: str, place: int, set_name: str) -> Figure:
        results = [run.result for run in groups[method]]
        results = [r["full_spectrum"] for r in results] if spectrum else results
        values = [result["figures"][score][set_name][metric] for result in results]
        draws = resampled.get((method, score))
        if draws is None or metric not in METRICS:
            return Figure(values)
        return Figure(values, interval(draws[:, place, METRICS.index(metric)]))

    rows = [
        Row(name, score, [figure(name, score, i, column) for i, column in enumerate(columns)])
        for name, runs in groups.items()
        for score in runs[0].figures
    ]
    name = f"full_spectrum_{metric}" if spectrum else metric
    block = Block(name, FULL_SPECTRUM * spectrum + TITLES[metric], columns, rows)
    return tables.mark_best(block, higher_is_better=metric == "auroc")


def _accuracy_block(groups: Groups) -> list[Block]:
    """Return the table of ID accuracies, with a column for each shifted ID set and for all images
    together; no table if a run lacks them."""
    rows, example = [], _first_run(groups)
    columns = example.spectrum or [example.id_set]
    for method, runs in groups.items():
        accuracies = [[r.result.get("accuracy", {}).get(name) for r in runs] for name in columns]
        if any(None in column for column in accuracies):
            return []
        if example.spectrum:
            accuracies.append([run.result["full_spectrum"]["accuracy"] for run in runs])
        rows.append(Row(method, "", [Figure(column) for column in accuracies]))
    title = "Accuracy on ID images (%). Higher is better."
    columns = [*columns, "all ID images"] if example.spectrum else columns
    block = Block("accuracy", title, columns, rows, kind="")
    return [tables.mark_best(block, higher_is_better=True)]


def _decision_block(groups: Groups, columns: Sequence[str]) -> list[Block]:
    """Return the table of threshold-free decisions, if any method makes them."""
    rows = []
    for method, runs in groups.items():
        decisions = [run.result.get("decisions") or {} for run in runs]
        for name in decisions[0]:
            rates = [by_name[name] for by_name in decisions if name in by_name]
            values = [[rate["id_acceptance"] for rate in rates]]
            values += [[rate["sets"][s]["ood_rejection"] for rate in rates] for s in columns]
            rows.append(Row(method, name, [Figure(column) for column in values]))
    title = "Threshold-free decisions (%): ID images kept, OOD images rejected. Higher is better."
    return [Block("decisions", title, ["ID kept", *columns], rows, kind="decision")] if rows else []


def overview(summary: Summary) -> str:
    """Return a short table of averages over the OOD sets, with a row for each method and score.

    Each set or group of sets that the average leaves out, such as near OOD, has a column of AUROC.
    """
    example = _first_run(summary.groups)
    averaged = {AVERAGE, *(name for sets in example.means.values() for name in sets)}
    apart = [name for name in (*example.means, *example.ood_sets) if name not in averaged]
    columns = [(AVERAGE, example.primary), (AVERAGE, "auroc"), *((n, "auroc") for n in apart)]
    rows = []
    for method, runs in summary.groups.items():
        accuracies = [run.result.get("accuracy", {}).get(run.id_set) for run in runs]
        accuracy = "-" if None in accuracies else Figure(accuracies)
        for score in runs[0].figures:
            figures = [Figure([r.figures[score][name][key] for r in runs]) for name, key in columns]
            rows.append((method, len(runs), score, *figures, accuracy))
    more = (f"AUROC {name.removeprefix(f'{AVERAGE} ')}" for name in apart)
    header = ("method", "runs", "score", "FPR95", "AUROC", *more, "ID accuracy")
    note = OVERVIEW_NOTE.format(fpr95=FPR95[example.primary].partition(",")[0])
    return "\n\n".join([text_table(rows, header), note, *summary.notes])


def summary_of(args: argparse.Namespace) -> Summary:
    """Return the `Summary` that a command line asks for."""
    groups, notes = load_groups(args.folders, args.scores)
    summary = summarise(groups, args.resamples)
    summary.notes[:0] = notes
    return summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose runs and resamples."""
    add = parser.add_argument
    add("folders", nargs="+", type=Path, help="folders to search for results.json")
    add("--scores", default="", help="scores to show, as MCM,GL-MCM (default: all of the runs)")
    add(
        "--resamples",
        type=int,
        default=RESAMPLES,
        help="resamples of the images for the intervals; 0 for no intervals (default: %(default)s)",
    )


def main() -> None:
    """Print tables of all runs under the given folders, and write them to files if asked."""
    parser = argparse.ArgumentParser(prog="python -m results.summary", description=main.__doc__)
    add_arguments(parser)
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="print only the comparison of two methods, METHOD or METHOD:SCORE, on the same images "
        "(default: none)",
    )
    parser.add_argument(
        "--overview", action="store_true", help="print only a short table of averages (default: no)"
    )
    for name in ("markdown", "csv", "latex"):
        parser.add_argument(f"--{name}", type=Path, help="file to write (default: none)")
    args = parser.parse_args()
    if args.markdown or args.csv or args.latex or not args.compare:
        summary = summary_of(args)
        _save(summary, args)
    if args.compare:
        print(_comparison(args))
    else:
        print(overview(summary) if args.overview else summary.as_text())


def _save(summary: Summary, args: argparse.Namespace) -> None:
    runs = ", ".join(f"{name} {len(runs)}" for name, runs in summary.groups.items())
    caption = CAPTION.format(fpr95=FPR95[_first_run(summary.groups).primary], runs=runs)
    contents = {
        args.markdown: summary.as_markdown(),
        args.latex: tables.as_latex(summary.blocks, caption) + "\n",
    }
    for path, content in contents.items():
        if path:
            with atomic_write(path) as file:
                file.write(content)
    if args.csv:
        write_csv(args.csv, tables.CSV_COLUMNS, tables.csv_rows(summary.blocks))


def _comparison(args: argparse.Namespace) -> str:
    groups, notes = load_groups(args.folders, args.scores)
    try:
        sides, apart = find_sides(groups, *args.compare)
    except InputError as error:  # the notes may say why a method is missing
        raise InputError("\n".join([str(error), *notes])) from error
    comparisons = [
        format_comparison(*pair, compare(*pair, args.resamples or RESAMPLES)) for pair in sides
    ]
    return "\n\n".join([*comparisons, COMPARISON_NOTE, *notes, *apart])


if __name__ == "__main__":
    command.run(main)
