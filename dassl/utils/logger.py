"""Logging that looks like upstream's printed output."""

from __future__ import annotations

import logging
import os
import sys
import time
from contextlib import suppress
from typing import IO, Any

from dassl import distributed

from .console import discard
from .files import explain_write_error, mkdir_if_missing

_CONSOLE, _FILE, _RUN = "dassl-console", "dassl-file", "dassl-run"


def setup_logger(output: str | os.PathLike | None = None) -> None:
    """Send log records of level INFO and above to stdout and, with `output`, to a file as well.

    `output` is a folder (the file is its `log.txt`) or a path that ends in .txt or .log. Calling
    it again replaces the handlers of the earlier call.

    Under torchrun, ranks above 0 log only warnings, only to the console, and name themselves.

    Text printed to sys.stdout goes to the file too, as upstream.

    Differs from upstream: our own messages are log records; an existing log is appended to under
    a dated line, so that a run that was stopped and resumed reads as one story. (Upstream starts
    `log.txt-<time>` beside it.)
    """
    root = logging.getLogger()
    if isinstance(sys.stdout, _Printed):
        sys.stdout = sys.stdout.console
    for handler in _handlers(_CONSOLE, _FILE):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.INFO)
    console = _Console(sys.stdout)
    _add(console, _CONSOLE)
    if not distributed.is_main():
        _limit(console, logging.WARNING, f"[{distributed.name_of_rank()}] ")
    elif output:
        file = _file_handler(output)
        _add(file, _FILE)
        sys.stdout = _Printed(sys.stdout, file)


class RunLog:
    """A log file for one of several runs that take turns in this process.

    Within `with log:` records go to the file, named as by `setup_logger`; the console, once set
    up, shows only warnings, each with the run's `name`.
    """

    def __init__(self, output: str | os.PathLike, name: str) -> None:
        self._handler, self._name = _file_handler(output), name

    def __enter__(self) -> RunLog:
        _add(self._handler, _RUN)
        for console in _handlers(_CONSOLE):
            _limit(console, logging.WARNING, f"[{self._name}] ")
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self._handler)
        for console in _handlers(_CONSOLE):
            _limit(console, logging.NOTSET)

    def close(self) -> None:
        self._handler.close()


def _handlers(*names: str) -> list[logging.Handler]:
    return [handler for handler in logging.getLogger().handlers if handler.get_name() in names]


def _limit(console: logging.Handler, level: int, prefix: str = "") -> None:
    console.setLevel(level)
    console.setFormatter(logging.Formatter(f"{prefix}%(message)s"))


def _add(handler: logging.Handler, name: str) -> None:
    handler.set_name(name)
    logging.getLogger().addHandler(handler)


def _file_handler(output: str | os.PathLike) -> logging.Handler:
    path = os.fspath(output)
    path = path if path.endswith((".txt", ".log")) else os.path.join(path, "log.txt")
    mkdir_if_missing(os.path.dirname(path) or ".")
    with explain_write_error(path, alias=os.path.abspath(path)):
        if os.path.exists(path):
            with open(path, "a", encoding="utf-8") as log:
                log.write(f"\n===== {time.strftime('%Y-%m-%d %H:%M:%S')} =====\n")
        return _LogFile(path, encoding="utf-8", errors="backslashreplace")


class _Console(logging.StreamHandler):
    """A console handler that lets the run go on when the console fails (closed pipe, full disk)."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
            return
        self.addFilter(lambda _: False)
        discard(self.stream)


class _Printed:
    """A stream for sys.stdout that writes to a log file as well."""

    def __init__(self, console: IO[str], log: logging.FileHandler) -> None:
        self.console, self._log = console, log

    def write(self, text: str) -> int:
        with self._log.lock, explain_write_error(self._log.baseFilename):
            if self._log.stream is not None:
                self._log.stream.write(text)
                self._log.stream.flush()
        return self.console.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.console, name)  # fileno, isatty, encoding ...


class _LogFile(logging.FileHandler):
    """A log file that ends the run if it cannot be written; logging would print tracebacks.

    It raises only once, so that messages about the end of the run do not hide the error.
    """

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self.addFilter(lambda _: False)
        with suppress(OSError):
            self.close()
        with explain_write_error(self.baseFilename):
            raise error
