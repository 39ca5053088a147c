"""Tables of figures as text, Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

from results.averages import Spread
from results.files import percent

INTERVAL_TITLE = "95 % interval over images"
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "±": r"$\pm$",
}


class Figure(NamedTuple):
    """A cell: mean and spread over runs, the interval over images, and whether it is the best
    of its column or cannot be told from it."""

    spread: Spread
    interval: tuple[float, float] | None = None
    best: bool = False

    def __str__(self) -> str:
        return str(self.spread)

    @property
    def range(self) -> str:
        return "-" if self.interval is None else " - ".join(map(percent, self.interval))


class Row(NamedTuple):
    method: str
    runs: int
    score: str
    figures: list[Figure]


class Block(NamedTuple):
    """A table of one metric: a row for each method and score, a column for each image set.

    `kind` heads the column of scores; "" leaves it out.
    """

    metric: str
    title: str
    columns: list[str]
    rows: list[Row]
    kind: str = "score"

    @property
    def has_intervals(self) -> bool:
        return any(figure.interval for row in self.rows for figure in row.figures)

    def cells(self, show: Callable[[Figure], str] = str) -> list[list[str]]:
        """Headings and rows as text."""
        kind = [self.kind] if self.kind else []
        return [["method", "runs", *kind, *self.columns]] + [
            [row.method, str(row.runs), *([row.score] if kind else []), *map(show, row.figures)]
            for row in self.rows
        ]


def as_text(blocks: Sequence[Block]) -> str:
    """Plain text; intervals in a table of their own under each block."""
    parts = []
    for block in blocks:
        parts += [block.title, align(block.cells())]
        if block.has_intervals:
            parts += [INTERVAL_TITLE, align(block.cells(lambda figure: figure.range))]
    return "\n\n".join(parts)


def align(rows: Sequence[Sequence[str]]) -> str:
    """Headings, a rule and rows, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def as_markdown(blocks: Sequence[Block]) -> str:
    """Markdown; the best figures are bold where blocks say which they are."""
    parts = []
    for block in blocks:
        parts += [block.title, pipes(block.cells(_bold("**", "**")))]
        if block.has_intervals:
            parts += [INTERVAL_TITLE, pipes(block.cells(lambda figure: figure.range))]
    return "\n\n".join(parts)


def pipes(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [[cell.strip().replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _bold(before: str, after: str, change: Callable[[str], str] = str) -> Callable[[Figure], str]:
    def show(figure: Figure) -> str:
        text = change(str(figure).strip())
        return f"{before}{text}{after}" if figure.best else text

    return show


def as_latex(blocks: Sequence[Block], note: str = "") -> str:
    """A `table` for each block; needs the package booktabs."""
    return "\n\n".join(_latex_block(block, note) for block in blocks)


def _latex_block(block: Block, note: str) -> str:
    first = len(block.cells()[0]) - len(block.columns)
    header, *rows = [
        [latex_escape(cell) for cell in row[:first]] + row[first:]
        for row in block.cells(_bold(r"\textbf{", "}", latex_escape))
    ]
    header[first:] = map(latex_escape, header[first:])
    lines = [" & ".join(row) + r" \\" for row in (header, *rows)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_escape(' '.join([block.title, note]).strip())}}}",
            rf"\begin{{tabular}}{{@{{}}{'l' * first}{'r' * len(block.columns)}@{{}}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def latex_escape(text: str) -> str:
    return "".join(LATEX_SPECIAL.get(character, character) for character in text)


def as_csv(blocks: Sequence[Block]) -> str:
    """A line for each figure, as fractions with all digits; empty where there is nothing."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["metric", "method", "runs", "score", "set", "mean", "std", "low", "high"])
    for block in blocks:
        for row in block.rows:
            for name, figure in zip(block.columns, row.figures, strict=True):
                (mean, std, _), ends = figure.spread, figure.interval or ("", "")
                writer.writerow(
                    [block.metric, row.method, row.runs, row.score, name, mean, std, *ends]
                )
    return file.getvalue()
