"""Problems with the data, the table of sets, and how both are printed and written."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

EVALUATION, TRAINING = "evaluation", "training"
WIDTH = 100
SHOWN_LINES = 6  # of what mends a problem


@dataclass(frozen=True)
class Problem:
    """Something wrong with a set.

    Attributes:
        kind: one or two words for the table: missing, flat, duplicates, ...
        where: the row of the table that it belongs to.
        what: what was found, in sentences.
        mend: lines for a shell; those that start with "#" are advice.
        stops: the runs that cannot go ahead with it, of EVALUATION and TRAINING.
        files: all files it is about, as far as they are known.
    """

    kind: str
    where: str
    what: str
    mend: Sequence[str] = ()
    stops: Sequence[str] = ()
    files: Sequence[str] = ()


@dataclass
class Row:
    """A set: where it was found, and what it holds. None = unknown or not expected."""

    name: str
    found: str = "not found"
    folders: int | None = None
    images: int | None = None
    expected: int | None = None


@dataclass
class Report:
    """All that a check found.

    Attributes:
        asked: the runs that the user wants; a problem that stops another is a warning.
        depth: what was looked at, in words.
    """

    root: str
    dataset: str
    asked: Sequence[str]
    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    depth: str = ""

    def is_error(self, problem: Problem) -> bool:
        return bool(set(problem.stops) & set(self.asked))

    @property
    def ordered(self) -> list[Problem]:
        """Errors first."""
        return sorted(self.problems, key=lambda problem: not self.is_error(problem))

    @property
    def ready(self) -> bool:
        """Whether the runs that were asked for can go ahead."""
        return not any(map(self.is_error, self.problems))

    def text(self) -> str:
        parts = [f"Data of {self.dataset} in {self.root}\n{self.depth}", self._table()]
        parts += [
            _told(n, "error" if self.is_error(problem) else "warning", problem)
            for n, problem in enumerate(self.ordered, start=1)
        ]
        return "\n\n".join([*filter(None, parts), self._verdicts()])

    def record(self) -> dict:
        """All of it for JSON; lists of files are whole."""
        problems = [
            {"level": "error" if self.is_error(p) else "warning", **asdict(p)} for p in self.ordered
        ]
        rows = [{**asdict(row), "verdict": self._verdict(row)} for row in self.rows]
        return {
            "root": self.root,
            "dataset": self.dataset,
            "looked_at": self.depth,
            "asked": list(self.asked),
            "ready": self.ready,
            "sets": rows,
            "problems": problems,
        }

    def script(self) -> str:
        """All that mends, as one shell script."""
        parts = [
            f"# {n}. {problem.where}: {problem.kind}\n" + "\n".join(problem.mend) + "\n"
            for n, problem in enumerate(self.ordered, start=1)
            if problem.mend
        ]
        head = "# Made by datasets.check. Read it, keep what is right, then run it with bash.\n"
        return head + "set -euo pipefail\n\n" + "\n".join(parts)

    def _verdict(self, row: Row) -> str:
        kinds = [problem.kind for problem in self.ordered if problem.where == row.name]
        return ", ".join(dict.fromkeys(kinds)) or "ok"

    def _table(self) -> str:
        if not self.rows:
            return ""
        head = ("set", "found in", "folders", "images", "expected", "verdict")
        rows = [
            (
                row.name,
                row.found,
                _number(row.folders),
                _number(row.images),
                _number(row.expected),
                self._verdict(row),
            )
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        sides = ("<", "<", ">", ">", ">", "<")
        return "\n".join(
            "  ".join(
                f"{cell:{side}{width}}"
                for cell, side, width in zip(line, sides, widths, strict=True)
            ).rstrip()
            for line in (head, *rows)
        )

    def _verdicts(self) -> str:
        lines = []
        for run in (EVALUATION, TRAINING):
            numbers = [
                str(n) for n, problem in enumerate(self.ordered, start=1) if run in problem.stops
            ]
            lines.append(
                f"{run}: cannot go ahead before {', '.join(numbers)} "
                f"{'is' if len(numbers) == 1 else 'are'} mended"
                if numbers
                else f"{run}: can go ahead"
            )
        return "\n".join(lines)


def counted(number: int, what: str) -> str:
    """1 image, 2 images, 2,000 classes."""
    if number == 1:
        return f"1 {what}"
    return f"{number:,} {what}{'es' if what.endswith('s') else 's'}"


def told(problems: Iterable[Problem]) -> str:
    """The problems for an error message."""
    return "\n\n".join(_told(n, "", problem) for n, problem in enumerate(problems, start=1))


def _told(number: int, level: str, problem: Problem) -> str:
    title = f"{number}. {level + ': ' if level else ''}{problem.where}: {problem.what}"
    lines = textwrap.wrap(
        title, WIDTH, subsequent_indent="   ", break_long_words=False, break_on_hyphens=False
    )
    mend = list(problem.mend)
    if len(mend) > SHOWN_LINES:
        rest = len(mend) - SHOWN_LINES + 1
        mend[SHOWN_LINES - 1 :] = [f"# and {rest} more lines: --script FILE writes them all"]
    return "\n".join([*lines, *("     " + line for line in mend)])


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
