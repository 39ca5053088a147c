"""Errors that a user can mend."""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch


class InputError(ValueError):
    """An error that the user can mend: what was asked cannot be done.

    The message says what was asked, what was found, what is allowed and how to mend it. Entry
    points print it without a traceback and exit non-zero.

    Attributes:
        kind: one or two words for the table of the data check: missing, flat, ...
        names: all files or folders concerned, where the message names only a few.
    """

    kind: str = "refused"
    names: Sequence[str] = ()


class UnknownNameError(InputError, KeyError):
    """A name that no registry or list knows; also a KeyError, which upstream raises."""

    def __str__(self) -> str:
        # KeyError prints the repr of its argument; a user should read a sentence.
        return str(self.args[0]) if self.args else ""


class BadImageError(InputError):
    """An image file that cannot be read. The message names the file, on one line."""

    def __init__(self, message: str = "") -> None:
        # A data loader's worker re-raises with its whole traceback as the message, which ends in
        # our own sentence: keep that alone.
        super().__init__(message.rpartition("BadImageError: ")[2].strip())


class WriteError(InputError):
    """A file that cannot be written, because of a full disk or a missing permission."""


class KilledWorkerError(InputError):
    """A process of a data loader that ended before its work, often killed for lack of memory."""


class NonFiniteLossError(InputError, FloatingPointError):
    """An infinite or NaN loss; also a FloatingPointError, which upstream raises."""


def require_installed(what: str, extra: str, *modules: str) -> None:
    """Raise InputError if optional modules that `what` needs are not installed."""
    if missing := [name for name in modules if not importlib.util.find_spec(name)]:
        raise InputError(
            f"{what} needs {' and '.join(missing)}: "
            f"python -m pip install -r requirements-{extra}.txt"
        )


@contextmanager
def explain_out_of_memory(task: str, settings: Mapping[str, object]) -> Iterator[None]:
    """Turn running out of memory, of a device or of the machine, into an InputError.

    Args:
        task: what needed the memory, such as "a training step on cuda".
        settings: those to lower, with their current values; the best choice first. Switches
            (True) come last, to be set False.
    """
    try:
        yield
    except RuntimeError as error:
        # The CPU's allocator raises a plain RuntimeError.
        if not (isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)):
            raise
        numbers = (f"{key} (now {x})" for key, x in settings.items() if x is not True)
        switches = (f"set {key} False" for key, x in settings.items() if x is True)
        choices = ", or ".join((*numbers, *switches))
        raise InputError(f"out of memory in {task}: lower {choices}") from error


@contextmanager
def explain_killed_worker() -> Iterator[None]:
    """Turn PyTorch's error for a worker that was killed into a KilledWorkerError.

    PyTorch notices a killed child at once. Under a fork server (`dassl.data.workers`) it may first
    ask the dead worker for an image: then the connection fails, or ends (EOFError without a text).
    """
    try:
        yield
    except (RuntimeError, EOFError, ConnectionResetError, ConnectionRefusedError) as error:
        first = str(error).partition("\n")[0].rstrip(". ")
        if isinstance(error, OSError) or (isinstance(error, EOFError) and not first):
            first = f"DataLoader worker gone ({first or 'no answer'})"
        if not first.startswith("DataLoader worker"):
            raise
        raise KilledWorkerError(
            f"{first}: a process that loads images was killed, often because the machine's memory "
            "is full. Lower DATALOADER.NUM_WORKERS (0 loads in the main process)"
        ) from error
