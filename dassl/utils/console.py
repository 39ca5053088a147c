"""Output for terminals, pipes and files: progress bars, and text that all of them can take."""

import io
import logging
import os
import re
import select
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import IO, Any

from tqdm import tqdm

logger = logging.getLogger(__name__)

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
LONG = 10  # seconds from which a stage is worth a line in the log


class progress_bar(tqdm):
    """A bar on a terminal; elsewhere one log line at the end of a stage of `LONG` seconds or more.

    Arguments are tqdm's; `disable=True` shows and logs nothing.
    """

    def __init__(
        self, iterable: Iterable | None = None, desc: str = "", unit: str = "step", **options: Any
    ) -> None:
        silent = options.pop("disable", False)
        self._line = "" if silent or not desc else f"{desc}: {{:,}} {{}} in {{:.0f}} s"
        self._unit, self._count, self._start = unit, 0, time.monotonic()
        # None disables the bar unless it is written to a terminal.
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
            ending = "" if self._count == 1 else "es" if self._unit.endswith("ch") else "s"
            logger.info(line.format(self._count, self._unit + ending, seconds))
        super().close()

    def __del__(self) -> None:
        self._line = ""  # a stage that did not finish logs no line
        super().__del__()


def printable(text: str) -> str:
    """Return `text` as UTF-8 can write it, with escapes: file names may hold any bytes."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def one_line(text: str) -> str:
    """Return `printable` text with escapes for control characters and line breaks, as in \\n."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), printable(text))


def escape_unprintable() -> None:
    """Let stdout and stderr escape the characters that their encoding lacks, as in \\xe9.

    An ASCII terminal or a file name that is not UTF-8 would otherwise end a command in the middle
    of its output.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_stdout() -> None:
    """Flush stdout; if that fails, discard the text that it still holds."""
    try:
        print(end="", flush=True)
    except OSError:
        discard(sys.stdout)


def reader_has_left() -> bool:
    """Return whether stdout is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(sys.stdout, 0)  # hang-up and error are always reported
    return bool(poll.poll(0))


def discard(stream: IO) -> None:
    """Discard the buffered text of a stream that fails; at exit it would fail once more."""
    with suppress(OSError), open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), stream.fileno())
