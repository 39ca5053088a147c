"""Verdicts on images, and a CSV file of verdicts that never holds half a row."""

import csv
import io
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from dassl.utils.console import one_line, printable
from dassl.utils.errors import InputError
from dassl.utils.files import explain_write_error


@dataclass(frozen=True)
class Verdict:
    """The verdict of a detector on one image.

    Attributes:
        image: its path, or the name of an open file; "" if it has none.
        label, classname: the most similar class.
        probability: softmax of that class over all classes at CLIP's own temperature, given that
            the image shows one of them; not an OOD score.
        cosine: similarity with the text of that class.
        score: higher = more in-distribution. threshold: None without a calibration.
        verdict: "ID" or "OOD"; "" without a calibration, or if the image could not be read.
        ctw, atd: CLIPN's decisions without a threshold, "ID" or "OOD"; "" for other models.
        error: reason why the image could not be read; then label is -1 and the numbers are None.
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

    @property
    def decision(self) -> str:
        """Return score, threshold and verdict as a caption quotes them, or the error."""
        if self.error:
            return self.error
        if not self.verdict:
            return f"{self.score:.6g}"
        sign = ">=" if self.score >= self.threshold else "<"
        return f"{self.score:.6g} {sign} {self.threshold:.6g}: {self.verdict}"

    def check_is_on(self, image: str | os.PathLike) -> None:
        """Raise InputError if this is a verdict on another file, or on an unreadable image."""
        if self.error:
            raise InputError(f"there is no region map of an unreadable image: {self.error}")
        both = os.path.exists(self.image) and os.path.exists(image)
        if both and not os.path.samefile(self.image, image):
            raise InputError(
                f"a region map of {image} cannot quote the verdict on {self.image}: give the "
                "verdict on the same file, or none for a new one"
            )

    def __str__(self) -> str:
        if self.error:
            return "\t".join(map(one_line, (self.image, "unreadable", self.error)))
        decisions = f"without a threshold: CTW {self.ctw}, ATD {self.atd}" if self.ctw else ""
        numbers = f"{self.probability:.1%}", f"{self.score:.6g}"
        columns = (self.image, self.classname, *numbers, self.verdict, decisions)
        return "\t".join(map(one_line, filter(None, columns)))


class VerdictFile(AbstractContextManager):
    """A CSV file that verdicts are appended to; an interrupted command leaves whole rows.

    Each row is written with one system call, so that a killed process leaves no half row. After a
    failed write (a full disk) the file is cut back to its last whole row.
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
