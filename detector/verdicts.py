"""Verdicts on images, and a file of them that is whole at any moment."""

import csv
import io
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from dassl.utils.console import printable
from dassl.utils.files import explain_write_error


@dataclass(frozen=True)
class Verdict:
    """The verdict of a detector on one image.

    Attributes:
        image: its path, "" if it came without one.
        label, classname: the most similar class.
        probability: of that class, softmax over all classes at CLIP's own temperature. It says
            which class, given that it is one of them; it is no OOD score.
        cosine: similarity with that class's text.
        score: higher = more in-distribution. threshold: None without a calibration.
        verdict: "ID" or "OOD"; "" without a calibration, or if the image could not be read.
        ctw, atd: CLIPN's decisions without a threshold, "ID" or "OOD"; "" of any other model.
        error: why it could not be read; then label is -1 and the numbers are None.
    """

    image: str
    label: int = -1
    classname: str = ""
    probability: float | None = None
    cosine: float | None = None
    score: float | None = None
    threshold: float | None = None
    verdict: str = ""
    ctw: str = ""
    atd: str = ""
    error: str = ""

    def __str__(self) -> str:
        image = printable(self.image)
        if self.error:
            return f"{image}\tunreadable\t{printable(self.error)}"
        decisions = f"without a threshold: CTW {self.ctw}, ATD {self.atd}" if self.ctw else ""
        numbers = f"{self.probability:.1%}", f"{self.score:.6g}"
        parts = (image, self.classname, *numbers, self.verdict, decisions)
        return "\t".join(part for part in parts if part)


class VerdictFile(AbstractContextManager):
    """A growing CSV file of verdicts: a stopped run leaves whole rows.

    A row is handed to the system in one piece, so that a process killed at any moment leaves no
    half row; after a write that failed (a full disk) the file ends with its last whole row.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        with explain_write_error(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "wb", buffering=0)  # noqa: SIM115 (open for our lifetime)
        self._append(Verdict.__dataclass_fields__)

    def write(self, verdict: Verdict) -> None:
        """Append a row."""
        self._append(printable(x) if isinstance(x, str) else x for x in asdict(verdict).values())

    def _append(self, row: Iterable[object]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row)
        content, end = text.getvalue().encode(), self._file.tell()
        with explain_write_error(self.path):
            try:
                while content:
                    content = content[self._file.write(content) :]
            except OSError:
                self._file.truncate(end)
                raise

    def __exit__(self, *_: object) -> None:
        self._file.close()
