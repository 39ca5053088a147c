"""What a terminal shows, and what a pipe or a file of the output gets instead."""

import io
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

logger = logging.getLogger(__name__)

LONG = 10  # seconds from which on a stage is worth a line in a log


class progress_bar(tqdm):
    """Show a bar on a terminal; elsewhere log one line at the end of a stage of `LONG` seconds.

    Arguments are tqdm's; `disable=True` shows and logs nothing.
    """

    def __init__(
        self, iterable: Iterable | None = None, desc: str = "", unit: str = "it", **options: Any
    ) -> None:
        silent = options.pop("disable", False)
        self._line = "" if silent or not desc else f"{desc}: {{:,}} x {unit} in {{:.0f}} s"
        self._count, self._start = 0, time.monotonic()
        # None: disabled unless it is written to a terminal.
        super().__init__(iterable, desc=desc, unit=unit, disable=silent or None, **options)

    def __iter__(self) -> Iterator:
        for item in super().__iter__():
            yield item
            self._count += 1
        self.close()

    def update(self, n: float = 1) -> bool | None:
        if self.disable:
            self._count += n
        return super().update(n)

    def close(self) -> None:
        seconds, line = time.monotonic() - self._start, self._line
        self._line = ""
        if self.disable and line and seconds >= LONG:
            logger.info(line.format(self._count, seconds))
        super().close()

    def __del__(self) -> None:
        self._line = ""  # of a stage that did not come to its end nothing is said
        super().__del__()


def printable(text: str) -> str:
    """Return text that UTF-8 can write: names of files may hold any bytes."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def escape_unprintable() -> None:
    """Let stdout and stderr write what their encoding lacks as an escape, such as \\xe9.

    An ASCII terminal or a file name that is not UTF-8 would otherwise end a command in the middle
    of its output.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
