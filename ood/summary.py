"""One table of several runs: mean and spread over seeds, method by method.

Runs are averaged only if they measured the same thing: `mean_and_spread` refuses results which
differ in their conventions, sets, image counts, or in anything under provenance["comparable"].
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from dassl.utils.errors import InputError
from dassl.utils.files import atomic_write
from dassl.utils.tools import flatten
from ood.metrics import PRIMARY
from ood.results import percent, read_results

BLOCKS = (
    (PRIMARY, "FPR95 (%), ID positive, threshold rule: nearest. Lower is better."),
    ("auroc", "AUROC (%). Higher is better."),
)
ABSENT = "(absent)"


class Spread(NamedTuple):
    """Mean, sample standard deviation (None for a single run) and number of runs."""

    mean: float
    std: float | None
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(fmean(values), stdev(values) if len(values) > 1 else None, len(values))

    def __str__(self) -> str:
        spread = "" if self.std is None else f" ± {percent(self.std)}"
        return f"{percent(self.mean):>5}{spread}"


def mean_and_spread(
    results: Sequence[Mapping[str, Any]], name: str = "runs"
) -> dict[str, dict[str, dict[str, Spread]]]:
    """score -> set -> metric -> Spread over runs, which must be comparable (else InputError)."""
    check_comparable(results, name)
    first = results[0]["figures"]
    return {
        score: {
            set_name: {
                metric: Spread.of([r["figures"][score][set_name][metric] for r in results])
                for metric in row
            }
            for set_name, row in sets.items()
        }
        for score, sets in first.items()
    }


def check_comparable(results: Sequence[Mapping[str, Any]], name: str = "runs") -> None:
    """InputError, naming the first difference, unless the runs may be averaged."""
    if not results:
        raise InputError(f"{name}: there is no result to average; run an evaluation first")
    reference = _measured(results[0], name)
    for i, result in enumerate(results[1:], start=2):
        other = _measured(result, name)
        for key in [*reference, *(k for k in other if k not in reference)]:
            one, two = reference.get(key, ABSENT), other.get(key, ABSENT)
            if one != two:
                raise InputError(
                    f"{name}: runs 1 and {i} cannot be averaged, they differ in {key}: "
                    f"{one!r} and {two!r}; evaluate both in the same way"
                )


def _measured(result: Mapping[str, Any], name: str) -> dict[str, Any]:
    """All that must be equal in two averaged runs, as flat entries."""
    comparable = result.get("provenance", {}).get("comparable")
    if not isinstance(comparable, Mapping):
        raise InputError(f'{name}: a result has no provenance["comparable"]; evaluate again')
    counts = {
        score: {set_name: (row["n_id"], row["n_ood"]) for set_name, row in sets.items()}
        for score, sets in result["figures"].items()
    }
    tree = {**comparable, "conventions": result["conventions"], "images (ID, OOD)": counts}
    return flatten(tree)


def summary_table(groups: Mapping[str, Sequence[Mapping[str, Any]]], markdown: bool = False) -> str:
    """Method x score by OOD set, mean ± sample standard deviation over each method's runs.

    ``groups``: method -> its results (as ``read_results`` gives them). Plain text, or Markdown.
    The runs of one method must be comparable, and all methods must have the same OOD sets.
    """
    if not groups:
        raise InputError("there are no results to tabulate: run an evaluation first")
    spreads = {name: mean_and_spread(results, name) for name, results in groups.items()}
    sets = _common_sets(spreads)
    blocks = []
    for metric, title in BLOCKS:
        rows = [
            [name, str(len(groups[name])), score, *(str(by_set[s][metric]) for s in sets)]
            for name, by_score in spreads.items()
            for score, by_set in by_score.items()
        ]
        blocks.append((title, [["method", "runs", "score", *sets], *rows]))
    blocks += _accuracy_block(groups)
    note = "Mean ± sample standard deviation over the runs; average = mean over the OOD sets."
    render = _markdown if markdown else _text
    return "\n\n".join([*(f"{title}\n\n{render(rows)}" for title, rows in blocks), note])


def _common_sets(spreads: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """The OOD sets of all methods; an average over other sets would not be the same average."""
    by_method = {name: list(next(iter(scores.values()))) for name, scores in spreads.items()}
    (first, sets), *others = by_method.items()
    for name, other in others:
        if set(other) != set(sets):
            raise InputError(
                f"{first} and {name} were evaluated on different OOD sets, so their averages are "
                f"not comparable: {', '.join(sets)}; {', '.join(other)}"
            )
    return sets


def _accuracy_block(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple]:
    """Accuracy on the labelled sets that every run has; nothing if there is none."""
    accuracies = {name: [r.get("accuracy", {}) for r in runs] for name, runs in groups.items()}
    everything = [accuracy for runs in accuracies.values() for accuracy in runs]
    names = [n for n in everything[0] if all(n in accuracy for accuracy in everything)]
    if not names:
        return []
    rows = [
        [method, str(len(runs)), *(str(Spread.of([run[n] for run in runs])) for n in names)]
        for method, runs in accuracies.items()
    ]
    return [("Accuracy on ID images (%). Higher is better.", [["method", "runs", *names], *rows])]


def _text(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _markdown(rows: list[list[str]]) -> str:
    rows = [[cell.strip().replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def gather(folders: Iterable[Path]) -> dict[str, list[dict[str, Any]]]:
    """Results under `folders`, grouped into methods: runs whose folders differ in the seed alone.

    A group is called after its trainer where that is enough to tell it from the others, else
    after its folder too.
    """
    groups: dict[Path, list[dict[str, Any]]] = {}
    for path in sorted({path for folder in folders for path in folder.rglob("results.json")}):
        run = path.parent
        method = run.parent if run.name.startswith("seed") else run
        groups.setdefault(method, []).append(read_results(path))
    trainers = {method: _trainer(runs[0]) for method, runs in groups.items()}
    unique = Counter(trainers.values())
    return {
        name if unique[name] == 1 else f"{name} ({method})": groups[method]
        for method, name in sorted(trainers.items(), key=lambda item: item[1] != "ZeroshotCLIP")
    }


def _trainer(result: Mapping[str, Any]) -> str:
    return result["provenance"].get("comparable", {}).get("trainer", "unnamed")


def only(groups: Mapping[str, Sequence[dict]], scores: Sequence[str]) -> dict[str, list[dict]]:
    """The same results with the figures of `scores` alone, of each method those that it has."""
    has = {name: {s for run in runs for s in run["figures"]} for name, runs in groups.items()}
    unknown = [s for s in scores if not any(s in own for own in has.values())]
    missing = {s for name, runs in groups.items() for run in runs
               for s in has[name].intersection(scores) - run["figures"].keys()}
    if unknown or missing:
        missing = ", ".join(sorted({*unknown, *missing}))
        raise InputError(f"score {missing} is not in every run: evaluate again")
    chosen = {name: [s for s in scores if s in own] for name, own in has.items()}
    return {
        name: [{**run, "figures": {s: run["figures"][s] for s in chosen[name]}} for run in runs]
        for name, runs in groups.items() if chosen[name]
    }


def main() -> None:
    """Print the table of all runs under the given folders, and save it as Markdown if asked."""
    parser = argparse.ArgumentParser(prog="python -m ood.summary", description=main.__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="searched for results.json")
    parser.add_argument("--scores", default="", help="separated by commas (all)")
    parser.add_argument("--markdown", type=Path, default=None, help="file to write")
    args = parser.parse_args()
    try:
        groups = gather(args.folders)
        if args.scores:
            groups = only(groups, args.scores.split(","))
        print(summary_table(groups))
        if args.markdown:
            with atomic_write(args.markdown) as file:
                file.write(summary_table(groups, markdown=True) + "\n")
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
