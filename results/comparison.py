"""Compare two methods on the same images: does one stay better on other images?

Every resample draws the same images for both methods (`results.bootstrap`), so what makes an image
hard for both cancels. Interval and two-sided p-value are those of the difference over the
resamples. In simulations, methods of equal quality fall below p = 0.05 in 5 % of cases for AUROC
and in 1 to 3 % for FPR95: its threshold is a quantile, and the bootstrap overestimates the variance
of quantiles (tests/results/test_comparison.py).

For a method with several runs the mean over its runs is compared. The result is about these runs
on other images, not about other training runs.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from dassl.utils import InputError, check_availability
from dassl.utils.names import suggest
from dassl.utils.tables import text_table
from datasets.folders import counted, first_few
from results.bootstrap import METRICS, RESAMPLES, check_resamples, interval, resample, two_sided_p
from results.runs import Groups, Run, comparable_runs
from results.tables import percent

NOTE = (
    "Paired bootstrap over images, with the same images for both; p is two-sided. Interval and p "
    "are about these runs on other images, not about other seeds."
)


class Difference(NamedTuple):
    """First minus second, as fractions, with the 95 % interval and two-sided p-value."""

    set_name: str
    metric: str
    first: float
    second: float
    low: float
    high: float
    p: float

    @property
    def difference(self) -> float:
        return self.first - self.second


class Side(NamedTuple):
    """A method, its runs and one of its scores."""

    method: str
    runs: Sequence[Run]
    score: str

    def __str__(self) -> str:
        return f"{self.method}, {self.score} ({counted(len(self.runs), 'run')})"

    def mean(self, set_name: str, metric: str) -> float:
        """Return the mean of a figure over the runs."""
        return float(np.mean([run.figures[self.score][set_name][metric] for run in self.runs]))


def find_sides(
    groups: Groups, first: str, second: str
) -> tuple[list[tuple[Side, Side]], list[str]]:
    """Return the pairs that `--compare FIRST SECOND` names, and notes on runs that are left out.

    FIRST and SECOND are METHOD or METHOD:SCORE. A score given for one applies to both; without a
    score there is a pair for each score that both methods have.

    Raises:
        InputError: unknown names, nothing in common, or methods evaluated on different images.
    """
    (a, a_score), (b, b_score) = (_method_and_score(groups, text) for text in (first, second))
    kept, notes = comparable_runs({name: groups[name] for name in (a, b)})
    if not {a, b} <= kept.keys():
        raise InputError("\n".join([f"{a} and {b} were not evaluated on the same images:", *notes]))
    a_scores, b_scores = (kept[method][0].figures for method in (a, b))
    if a_score or b_score:
        pairs = [(a_score or b_score, b_score or a_score)]
    else:
        pairs = [(score, score) for score in a_scores if score in b_scores]
    for of_a, of_b in pairs:
        _check_evaluated(a, of_a, a_scores)
        _check_evaluated(b, of_b, b_scores)
    if a == b and all(of_a == of_b for of_a, of_b in pairs):
        raise InputError(f"{a} is compared with itself: name two methods, or two of its scores")
    if not pairs:
        raise InputError(f"{a} and {b} have no score in common: give each its own, METHOD:SCORE")
    return [(Side(a, kept[a], of_a), Side(b, kept[b], of_b)) for of_a, of_b in pairs], notes


def _method_and_score(groups: Groups, text: str) -> tuple[str, str]:
    is_method = text in groups or ":" not in text
    method, _, score = (text, "", "") if is_method else text.rpartition(":")
    alike = [name for name in groups if name.startswith(f"{method} (")]
    if alike:
        raise InputError(
            f"{method} has several settings here: {first_few(alike)}. Quote a whole name as it is "
            f"listed, as in --compare '{text.replace(method, alike[0], 1)}' ..."
        )
    check_availability(method, groups, "method")
    return method, score


def _check_evaluated(method: str, score: str, scores: Collection[str]) -> None:
    if score not in scores:
        raise InputError(
            f"{method} was not evaluated with the score {score!r}. {suggest(score, scores)} To add "
            f"one, evaluate {method} again with --scores {','.join(scores)},NAME"
        )


def compare(first: Side, second: Side, resamples: int = RESAMPLES) -> list[Difference]:
    """Compare two sides by METRICS on every OOD set and on average; raise InputError if their
    images differ, or for too few resamples."""
    check_resamples(resamples)
    scored = [(run, side.score) for side in (first, second) for run in side.runs]
    inside, outside = same_images(scored)
    means = first.runs[0].means
    figures = resample(inside, outside, resamples, means=[*means.values()])
    split = len(first.runs)
    resampled = figures[:split].mean(axis=0) - figures[split:].mean(axis=0)
    differences = []
    for k, metric in enumerate(METRICS):
        for column, name in enumerate([*outside, *means]):
            values = first.mean(name, metric), second.mean(name, metric)
            drawn = resampled[:, column, k]
            statistics = *interval(drawn), two_sided_p(drawn)
            differences.append(Difference(name, metric, *values, *statistics))
    return differences


def same_images(
    scored: Sequence[tuple[Run, str]],
) -> tuple[list[np.ndarray], dict[str, list[np.ndarray]]]:
    """Return the ID and OOD scores of runs, each with the name of a score, for `resample`; raise
    InputError if their images differ."""
    reference = scored[0][0]
    columns: dict[str, list[np.ndarray]] = {}
    for name, expected in reference.images.items():
        for run, score in scored:
            found = run.images[name]
            if found.images != expected.images:
                example = min({*expected.images} ^ {*found.images}, default="one is there twice")
                raise InputError(
                    f"{reference.folder} and {run.folder} do not have the same images of {name} "
                    f"({len(expected.images):,} and {len(found.images):,}; {example}): evaluate "
                    "both on the same data"
                )
            columns.setdefault(name, []).append(found.scores[score])
    return columns.pop(reference.id_set), columns


def format_comparison(first: Side, second: Side, differences: Sequence[Difference]) -> str:
    """Return the table of a comparison, in percentage points."""
    header = ["metric", "set", "A", "B", "A - B", "95 % interval", "p"]
    rows = []
    for d in differences:
        metric = "AUROC" if d.metric == "auroc" else "FPR95, ID pos."
        figures = percent(d.first), percent(d.second), f"{100 * d.difference:+.2f}"
        limits = f"{100 * d.low:+.2f} to {100 * d.high:+.2f}"
        rows.append([metric, d.set_name, *figures, limits, f"{d.p:.3g}"])
    return f"A = {first}\nB = {second}\n\n{text_table(rows, header, '<<>>>><')}"
