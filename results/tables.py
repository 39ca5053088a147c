"""Tables of figures as text, Markdown, LaTeX and CSV."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

from dassl.utils.tables import RULE, text_table
from ood.metrics import CONVENTIONS, OPENOOD, PRIMARY
from ood.set_scores import SetScores
from results.files import Figures

CSV_COLUMNS = ("metric", "method", "runs", "score", "set", "mean", "std", "low", "high")
LATEX_METRICS = [r"FPR95 $\downarrow$", r"AUROC $\uparrow$"]
LATEX = str.maketrans(  # escapes LaTeX's special characters
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "±": r"$\pm$",
    }
)

# Heading -> metric in the table of one evaluation, after FPR95. OTHER_FPR95 is the last column.
EVALUATION_COLUMNS = {"AUROC": "auroc", "AUPR-in": "aupr_in", "AUPR-out": "aupr_out"}
OTHER_FPR95 = {
    PRIMARY: {"FPR95 (OOD pos.)": "fpr95_ood_nearest"},
    OPENOOD: {"FPR95 (ID pos.)": PRIMARY},
}
EVALUATION_NOTE = """\
ID images: {n_id:,}. All figures in percent. Higher score = in-distribution.
{fpr95}
Average: {average}."""
FPR95_NOTES = {
    PRIMARY: """\
FPR95: OOD images kept when 95 % of ID images are kept (ID positive; MCM, LoCoOp, CLIPN)
FPR95 (OOD pos.): ID images rejected when 95 % of OOD images are caught (OpenOOD)
Threshold: rate nearest to 95 %.""",
    OPENOOD: """\
FPR95: ID images rejected when at least 95 % of OOD images are caught (OOD positive; OpenOOD)
FPR95 (ID pos.): OOD images kept when 95 % of ID images are kept (MCM, LoCoOp; nearest rate)""",
}


def percent(value: float | None) -> str:
    """Return a fraction as percent with two decimals, or "-" for None."""
    return "-" if value is None else f"{100 * value:.2f}"


# One evaluation


def format_figures(figures: Figures, primary: str = PRIMARY) -> str:
    """Return the table of one evaluation, the FPR95 `primary` first, below a note on columns."""
    row = next(iter(next(iter(figures.values())).values()))
    average = CONVENTIONS["average"]
    note = EVALUATION_NOTE.format(fpr95=FPR95_NOTES[primary], average=average, **row)
    return f"{note}\n\n{figures_table(figures, primary)}"


def figures_table(figures: Figures, primary: str = PRIMARY) -> str:
    """Return the table of one evaluation: for each score its OOD sets, then the averages."""
    columns = {"FPR95": primary, **EVALUATION_COLUMNS, **OTHER_FPR95[primary]}
    rows: list[Sequence[str]] = []
    for score, sets in figures.items():
        rows += [RULE] if rows else []
        for name, row in sets.items():
            cells = (percent(row[metric]) for metric in columns.values())
            rows.append([score, name, f"{row['n_ood']:,}", *cells])
    return text_table(rows, ["score", "OOD set", "images", *columns], "<<>")


def format_rates(rates: Mapping[str, Mapping]) -> str:
    """Return the table of `ood.decisions.decision_rates` in percent, or "" if there are none."""
    if not rates:
        return ""
    rows = [
        [decision, name, *map(percent, (r["id_acceptance"], s["ood_rejection"], s["accuracy"]))]
        for decision, r in rates.items()
        for name, s in r["sets"].items()
    ]
    header = ["decision", "OOD set", "ID kept", "OOD rejected", "accuracy"]
    title = "Threshold-free decisions. Accuracy: right decisions on ID and OOD images together."
    return f"{title}\n\n{text_table(rows, header, '<<>')}"


def format_full_spectrum(
    spectrum: Mapping[str, Any], inside: Sequence[SetScores], primary: str = PRIMARY
) -> str:
    """Return the table of the full-spectrum figures, and the accuracy on each ID set."""
    count = sum(len(s.images) for s in inside)
    lines = [f"Accuracy on {s.name}: {percent(s.accuracy)} % of {len(s.images):,}" for s in inside]
    lines.append(f"Accuracy on all of them: {percent(spectrum['accuracy'])} % of {count:,}")
    title = (
        "Full spectrum: shifted ID images count as ID, all together: "
        f"{', '.join(spectrum['sets'])}. ID images: {count:,}."
    )
    return "\n\n".join([title, figures_table(spectrum["figures"], primary), "\n".join(lines)])


# Several methods


@dataclass
class Figure:
    """A cell: a fraction for each run, an interval over images, and whether the mean is best."""

    values: Sequence[float]
    interval: tuple[float, float] | None = None
    best: bool = False

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def std(self) -> float | None:
        """Return the sample standard deviation over the runs, or None for a single run."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def range(self) -> str:
        return "-" if self.interval is None else " - ".join(map(percent, self.interval))

    def __str__(self) -> str:
        return percent(self.mean) + ("" if self.std is None else f" ± {percent(self.std)}")


class Row(NamedTuple):
    method: str
    score: str
    figures: list[Figure]

    @property
    def runs(self) -> int:
        return len(self.figures[0].values)


class Block(NamedTuple):
    """A table of one metric: a row for each method and score, a column for each image set."""

    metric: str
    title: str
    columns: list[str]
    rows: list[Row]
    kind: str = "score"  # heading of the column of scores; "" leaves the column out

    @property
    def has_intervals(self) -> bool:
        return any(figure.interval for row in self.rows for figure in row.figures)


def mark_best(block: Block, higher_is_better: bool) -> Block:
    """Mark the best mean of each column, with all means that are printed as the same number."""
    best = max if higher_is_better else min
    for column in zip(*(row.figures for row in block.rows), strict=True):
        top = percent(best(figure.mean for figure in column))
        for figure in column:
            figure.best = len(column) > 1 and percent(figure.mean) == top
    return block


def titled(block: Block, table: Callable[..., str], best: str) -> str:
    """Return a table below its title; `best`, such as `{}*`, formats the best cell of a column.

    The interval, if any, is that of the last column.
    """
    has_score = bool(block.kind)
    header = ["method", "runs", *[block.kind] * has_score, *block.columns]
    header += [f"{block.columns[-1]}, 95 % interval"] * block.has_intervals
    rows = [
        [row.method, row.runs, *[row.score] * has_score]
        + [best.format(figure) if figure.best else figure for figure in row.figures]
        + [row.figures[-1].range] * block.has_intervals
        for row in block.rows
    ]
    return f"{block.title}\n\n{table(rows, header)}"


def as_latex(blocks: Sequence[Block], caption: str) -> str:
    """Return a LaTeX `table` for the package booktabs: FPR95 and AUROC, the first two of `blocks`.

    A row is a method, or a method with one of its scores; the average comes last.
    """
    fpr, auroc = blocks[:2]
    labels = 2 if len({row.score for row in fpr.rows}) > 1 else 1  # columns before the figures
    ends = [labels + 2 * i for i in range(1, len(fpr.columns) + 1)]
    groups = [rf"\multicolumn{{2}}{{c}}{{{name.translate(LATEX)}}}" for name in fpr.columns]
    header = ["Method", "Score"][:labels] + LATEX_METRICS * len(groups)
    rows = [
        [text.translate(LATEX) for text in (one.method, one.score)[:labels]]
        + [_latex(f) for pair in zip(one.figures, two.figures, strict=True) for f in pair]
        for one, two in zip(fpr.rows, auroc.rows, strict=True)
    ]
    lines = [" & ".join(cells) + r" \\" for cells in ([*[""] * labels, *groups], header, *rows)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption.translate(LATEX)}}}",
            rf"\begin{{tabular}}{{@{{}}{'l' * labels}{'rr' * len(groups)}@{{}}}}",
            r"\toprule",
            lines[0],
            " ".join(rf"\cmidrule(lr){{{end - 1}-{end}}}" for end in ends),
            lines[1],
            r"\midrule",
            *lines[2:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _latex(figure: Figure) -> str:
    mean, _, spread = str(figure).partition(" ± ")
    mean = rf"\textbf{{{mean}}}" if figure.best else mean
    return rf"{mean}{{\scriptsize$\,\pm\,${spread}}}" if spread else mean


def csv_rows(blocks: Sequence[Block]) -> Iterator[list]:
    """Yield a row of CSV_COLUMNS for each figure, as fractions with all digits."""
    for block in blocks:
        for row in block.rows:
            for name, figure in zip(block.columns, row.figures, strict=True):
                labels = [block.metric, row.method, row.runs, row.score, name]
                yield [*labels, figure.mean, figure.std, *(figure.interval or ("", ""))]
