"""One table of several runs: python -m results.summary output/imagenet --scores MCM,GL-MCM.

Mean and spread over seeds, method by method, with intervals over the images where every image's
scores are at hand; which seeds are far off or missing; two methods compared on the same images.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dassl.utils.errors import InputError, in_a_sentence
from dassl.utils.files import atomic_write
from ood.metrics import PRIMARY
from results import tables
from results.averages import Spread, mean_and_spread, outlying_seeds
from results.bootstrap import METRICS, RESAMPLES, interval, resample
from results.comparison import Difference, Side, check_resamples, compare, find_sides
from results.files import AVERAGE, percent
from results.runs import Groups, gather, missing_runs, only
from results.tables import Block, Figure, Row

TITLES = {
    PRIMARY: "FPR95 (%), ID positive, threshold rule: nearest. Lower is better.",
    "auroc": "AUROC (%). Higher is better.",
    "fpr95_ood_nearest": "FPR95 (%), OOD positive, threshold rule: nearest. Lower is better.",
}
SHORT = {PRIMARY: "FPR95, ID pos.", "auroc": "AUROC", "fpr95_ood_nearest": "FPR95, OOD pos."}
HIGHER_IS_BETTER = ("auroc",)
NOTE = "Mean ± sample standard deviation over the runs; average = mean over the OOD sets."
BOLD_NOTE = (
    "Bold: the best of its column, and what cannot be told from it at 95 % by the spread over "
    "images (paired bootstrap) and over seeds."
)
NORMAL_95 = 1.96

Resampled = dict[tuple[str, str], np.ndarray]  # method, score -> [resamples, sets + 1, 3]


@dataclass
class Summary:
    """The tables of several methods, and what a reader must know besides."""

    groups: Groups
    blocks: list[Block]
    notes: list[str] = field(default_factory=list)

    @property
    def has_intervals(self) -> bool:
        return any(block.has_intervals for block in self.blocks)

    @property
    def legend(self) -> str:
        rows = [row for block in self.blocks for row in block.rows]
        bold = any(figure.best for row in rows for figure in row.figures)
        return f"{NOTE} {BOLD_NOTE}" if bold else NOTE


def summarise(groups: Groups, resamples: int = 0, seed: int = 0) -> Summary:
    """Tables of all methods, with intervals and the best marked if `resamples` is not 0.

    Raises:
        InputError: the runs of one method are not comparable, or the methods have not the same
            OOD sets.
    """
    if not groups:
        raise InputError("there are no results to tabulate: run an evaluation first")
    spreads = {name: mean_and_spread(runs, name) for name, runs in groups.items()}
    sets = _common_sets(spreads)
    without = [name for name, runs in groups.items() if not all(r.has_images for r in runs)]
    resampled: Resampled = {}
    notes = []
    if resamples:
        check_resamples(resamples, seed)
        resampled = _resample(groups, without, sets, resamples, seed)
        notes = [
            f"{name} has no scores of single images (scores/*.csv): no intervals"
            for name in without
        ]
    blocks = [
        _mark_best(_block(metric, spreads, groups, sets, resampled), resampled, sets)
        for metric in TITLES
    ]
    blocks += [*_accuracy_block(groups), *_decision_block(groups, sets)]
    return Summary(groups, blocks, notes + outlying_seeds(groups))


def _common_sets(spreads: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """The columns of all methods; an average over other sets would not be the same average."""
    by_method = {name: list(next(iter(scores.values()))) for name, scores in spreads.items()}
    (first, sets), *others = by_method.items()
    for name, other in others:
        if set(other) != set(sets):
            raise InputError(
                f"{first} and {name} were evaluated on different OOD sets, so their averages are "
                f"not comparable: {', '.join(sets)}; {', '.join(other)}"
            )
    return sets if len(sets) > 2 else sets[:1]  # the average of one set is that set


def _resample(
    groups: Groups, without: Sequence[str], sets: Sequence[str], resamples: int, seed: int
) -> Resampled:
    """The mean over a method's runs in every resample of the images."""
    todo = {name: runs for name, runs in groups.items() if name not in without}
    ood_sets = [name for name in sets if name != AVERAGE]
    found: Resampled = {}
    for name, runs in tqdm(todo.items(), desc="resampling images", unit="method", leave=False):
        scores = list(runs[0].result["figures"])
        columns = {
            s: [run.images[s].scores[score] for run in runs for score in scores]
            for s in [runs[0].id_set, *ood_sets]
        }
        figures = resample(columns.pop(runs[0].id_set), columns, resamples, seed)
        figures = figures.reshape(len(runs), len(scores), *figures.shape[1:]).mean(axis=0)
        figures = np.concatenate([figures, figures.mean(axis=2, keepdims=True)], axis=2)
        found |= {(name, score): own for score, own in zip(scores, figures, strict=True)}
    return found


def _block(
    metric: str, spreads: Mapping, groups: Groups, sets: list[str], resampled: Resampled
) -> Block:
    def figure(method: str, score: str, set_name: str) -> Figure:
        own = resampled.get((method, score))
        spread = spreads[method][score][set_name][metric]
        if own is None:
            return Figure(spread)
        return Figure(spread, interval(own[:, sets.index(set_name), METRICS.index(metric)]))

    rows = [
        Row(name, len(groups[name]), score, [figure(name, score, s) for s in sets])
        for name, by_score in spreads.items()
        for score in by_score
    ]
    return Block(metric, TITLES[metric], sets, rows)


def _mark_best(block: Block, resampled: Resampled, sets: list[str]) -> Block:
    """Mark the best of each column, and what lies within the noise of its difference from it.

    The variance of the difference is that over images, paired, plus that of both means over seeds.
    """
    rows = block.rows
    if len(rows) < 2 or not all((row.method, row.score) in resampled for row in rows):
        return block
    sign = 1 if block.metric in HIGHER_IS_BETTER else -1
    best = [[False] * len(sets) for _ in rows]
    for column in range(len(sets)):
        spreads = [row.figures[column].spread for row in rows]
        draws = [
            resampled[row.method, row.score][:, column, METRICS.index(block.metric)] for row in rows
        ]
        top = max(range(len(rows)), key=lambda i: sign * spreads[i].mean)
        for i, spread in enumerate(spreads):
            variance = np.var(draws[i] - draws[top])
            if rows[i].method != rows[top].method:
                variance += _variance_of_mean(spread) + _variance_of_mean(spreads[top])
            distance = abs(spread.mean - spreads[top].mean)
            best[i][column] = bool(distance <= NORMAL_95 * variance**0.5)
    return block._replace(
        rows=[
            row._replace(
                figures=[f._replace(best=b) for f, b in zip(row.figures, marks, strict=True)]
            )
            for row, marks in zip(rows, best, strict=True)
        ]
    )


def _variance_of_mean(spread: Spread) -> float:
    return 0.0 if spread.std is None else spread.std**2 / spread.runs


def _accuracy_block(groups: Groups) -> list[Block]:
    """Accuracy on the labelled sets that every run has; nothing if there is none."""
    accuracies = {
        name: [run.result.get("accuracy", {}) for run in runs] for name, runs in groups.items()
    }
    everything = [accuracy for runs in accuracies.values() for accuracy in runs]
    names = [n for n in everything[0] if all(n in accuracy for accuracy in everything)]
    if not names:
        return []
    rows = [
        Row(method, len(runs), "", [Figure(Spread.of([run[n] for run in runs])) for n in names])
        for method, runs in accuracies.items()
    ]
    return [Block("accuracy", "Accuracy on ID images (%). Higher is better.", names, rows, kind="")]


def _decision_block(groups: Groups, sets: list[str]) -> list[Block]:
    """Threshold-free decisions of the methods that make them; nothing if there is none."""
    rows = []
    for method, runs in groups.items():
        decisions = [run.result.get("decisions") or {} for run in runs]
        for name in decisions[0]:
            if all(name in own for own in decisions):
                rows.append(_decision_row(method, name, [own[name] for own in decisions], sets))
    title = "Threshold-free decisions (%): ID images kept, OOD images rejected. Higher is better."
    columns = ["ID kept", *sets]
    return [Block("decisions", title, columns, rows, kind="decision")] if rows else []


def _decision_row(method: str, name: str, rates: Sequence[Mapping], sets: list[str]) -> Row:
    columns = [[own["id_acceptance"] for own in rates]]
    columns += [[own["sets"][s]["ood_rejection"] for own in rates] for s in sets]
    return Row(method, len(rates), name, [Figure(Spread.of(values)) for values in columns])


def comparison_table(differences: Sequence[Difference]) -> list[list[str]]:
    """Headings and rows, in percentage points."""
    header = ["metric", "set", "A", "B", "A - B", "95 % interval", "p", "p (DeLong)", "seeds"]
    return [header] + [
        [
            SHORT[d.metric],
            d.set_name,
            percent(d.first),
            percent(d.second),
            f"{100 * d.difference:+.2f}",
            f"{100 * d.low:+.2f} to {100 * d.high:+.2f}",
            f"{d.p:.3g}",
            "" if d.p_delong is None else f"{d.p_delong:.2g}",
            f"{d.wins} of {d.seeds}" if d.seeds else "",
        ]
        for metric in METRICS
        for d in differences
        if d.metric == metric
    ]


def comparison_title(first: Side, second: Side) -> str:
    runs = [f"{len(side.runs)} run{'s' if len(side.runs) > 1 else ''}" for side in (first, second)]
    return f"A = {first} ({runs[0]}), B = {second} ({runs[1]})"


COMPARISON_NOTE = (
    "Paired bootstrap over the images, the same for both; p: two-sided. Seeds: those in which A "
    "is better, of those that both have."
)


def summary_of(args: argparse.Namespace):
    """The groups of runs that a command line asks for, and their `Summary`."""
    groups = gather(args.folders)
    groups = only(groups, args.scores.split(",")) if args.scores else groups
    summary = summarise(groups, args.resamples, args.seed)
    summary.notes += missing_runs(args.folders, groups)
    return groups, summary


def main() -> None:
    """Print the table of all runs under the given folders, and save it if asked."""
    args = _parser().parse_args()
    with in_a_sentence():
        groups, summary = summary_of(args)
        print(tables.as_text(summary.blocks), NOTE, *summary.notes, sep="\n\n")
        _save(summary, args)
        if args.compare:
            _print_comparison(groups, args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m results.summary", description=main.__doc__)
    add = parser.add_argument
    add("folders", nargs="+", type=Path, help="searched for results.json")
    add("--scores", default="", help="separated by commas (all)")
    add(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="methods, METHOD or METHOD:SCORE, to be compared on the same images",
    )
    add(
        "--resamples",
        type=int,
        default=RESAMPLES,
        help=f"of the images, for the intervals; 0 for none ({RESAMPLES})",
    )
    add("--seed", type=int, default=0, help="of the resamples (0)")
    for name in ("markdown", "csv", "latex"):
        add(f"--{name}", type=Path, default=None, help="file to write")
    return parser


def _save(summary: Summary, args: argparse.Namespace) -> None:
    below = "\n\n".join([summary.legend, *summary.notes])
    contents: dict[str, Callable[[], str]] = {
        "markdown": lambda: f"{tables.as_markdown(summary.blocks)}\n\n{below}\n",
        "latex": lambda: tables.as_latex(summary.blocks, summary.legend) + "\n",
        "csv": lambda: tables.as_csv(summary.blocks),
    }
    for name, content in contents.items():
        path = getattr(args, name)
        if path:
            with atomic_write(path) as file:
                file.write(content())


def _print_comparison(groups: Groups, args: argparse.Namespace) -> None:
    for first, second in find_sides(groups, *args.compare):
        differences = compare(first, second, args.resamples or RESAMPLES, args.seed)
        table = tables.align(comparison_table(differences))
        print("", comparison_title(first, second), "", table, sep="\n")
    print(f"\n{COMPARISON_NOTE}")


if __name__ == "__main__":
    main()
