"""The report of a check: problems with the data, and the table of sets, as text and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dassl.utils.errors import InputError
from dassl.utils.tables import text_table
from datasets.needs import NOTHING, Needs

WIDTH = 100


@dataclass(frozen=True)
class Problem:
    """A problem with a set.

    Attributes:
        where: its row in the table.
        kind: one or two words for the table: missing, flat, duplicates, ...
        what: what was found and how to mend it, in sentences.
        stops: a run that needs one of these cannot go ahead; nothing for a warning.
        files: all files concerned, if they are known.
    """

    where: str
    kind: str
    what: str
    stops: Needs = NOTHING
    files: Sequence[str] = ()

    @classmethod
    def of(cls, error: InputError, where: str, stops: Needs = NOTHING, more: str = "") -> Problem:
        """Make a problem of a loader's error; `more` is appended to its message."""
        return cls(where, error.kind, f"{error} {more}".rstrip(), stops, error.names)


@dataclass
class Row:
    """A row of the table: a set, where it was found, and its numbers; None: unknown, or not set."""

    name: str
    found: str = "not found"
    folders: int | None = None
    images: int | None = None
    expected: int | None = None


@dataclass
class Report:
    """The results of a check.

    Attributes:
        runs: the possible runs by name, and what each needs.
        asked: names of the runs that the user wants; what stops only other runs is a warning.
        depth: how much was read, in words.
    """

    root: str
    dataset: str
    runs: Mapping[str, Needs]
    asked: Sequence[str]
    depth: str = ""
    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def level(self, problem: Problem) -> str:
        """Return "error" if a problem stops a run that was asked for, else "warning"."""
        stopped = any(problem.stops & self.runs[run] for run in self.asked)
        return "error" if stopped else "warning"

    @property
    def ordered(self) -> list[Problem]:
        """Return the problems, errors first."""
        return sorted(self.problems, key=self.level)

    @property
    def ready(self) -> bool:
        """Return whether the runs that were asked for can go ahead."""
        return "error" not in map(self.level, self.problems)

    def text(self) -> str:
        """Return the report for printing: the table, the problems, a verdict on each run."""
        paragraphs = [f"Data of {self.dataset} in {self.root}\n{self.depth}", self._table()]
        for number, problem in enumerate(self.ordered, start=1):
            paragraphs.append(numbered(number, problem, f"{self.level(problem)}: "))
        verdicts = [self._can_go_ahead(name, needs) for name, needs in self.runs.items()]
        return "\n\n".join([*paragraphs, "\n".join(verdicts)])

    def record(self) -> dict:
        """Return the report for JSON, with complete lists of files."""
        return {
            "root": self.root,
            "dataset": self.dataset,
            "looked_at": self.depth,
            "asked": list(self.asked),
            "ready": self.ready,
            "sets": [{**vars(row), "verdict": self._verdict(row)} for row in self.rows],
            "problems": [
                {
                    "level": self.level(problem),
                    **vars(problem),
                    "stops": [run for run, needs in self.runs.items() if problem.stops & needs],
                    "files": list(problem.files),
                }
                for problem in self.ordered
            ],
        }

    def _can_go_ahead(self, run: str, needs: Needs) -> str:
        numbers = [str(n) for n, p in enumerate(self.ordered, start=1) if p.stops & needs]
        if not numbers:
            return f"{run}: can go ahead"
        verb = "is" if len(numbers) == 1 else "are"
        return f"{run}: cannot go ahead before {', '.join(numbers)} {verb} mended"

    def _verdict(self, row: Row) -> str:
        kinds = [problem.kind for problem in self.ordered if problem.where == row.name]
        return ", ".join(dict.fromkeys(kinds)) or "ok"

    def _table(self) -> str:
        rows = []
        for row in self.rows:
            counts = (row.folders, row.images, row.expected)
            cells = ["-" if count is None else f"{count:,}" for count in counts]
            rows.append((row.name, row.found, *cells, self._verdict(row)))
        header = ("set", "found in", "folders", "images", "expected", "verdict")
        return text_table(rows, header, sides="<<>>><")


def numbered(number: int, problem: Problem, level: str = "") -> str:
    """Return a problem as a wrapped paragraph: 2. error: SUN: ..."""
    text = f"{number}. {level}{problem.where}: {problem.what}"
    return textwrap.fill(
        text, WIDTH, subsequent_indent="   ", break_long_words=False, break_on_hyphens=False
    )
