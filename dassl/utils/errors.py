"""Errors that a user can mend."""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch


class InputError(ValueError):
    """Something the user asked for cannot be done as asked.

    The message says what was asked, what was found, what is allowed and how to
    mend it. Entry points print it without a traceback and exit non-zero.

    Attributes:
        kind: one or two words for the table of the data check: missing, flat, ...
        names: all files or folders it is about, where the message names a few.
    """

    kind: str = "refused"
    names: Sequence[str] = ()


class UnknownNameError(InputError, KeyError):
    """A name that no registry or list knows. A KeyError too, as upstream raised one."""

    def __str__(self) -> str:
        # KeyError prints the repr of its argument; a user should read a sentence.
        return str(self.args[0]) if self.args else ""


class BadImageError(InputError):
    """An image file that cannot be read. The message names the file, on one line."""

    def __init__(self, message: str = "") -> None:
        # A data loader's worker re-raises with its whole traceback as the message, our own
        # sentence last: keep the sentence.
        super().__init__(message.rpartition("BadImageError: ")[2].strip())


class WriteError(InputError):
    """A file that cannot be written: a full disk, a missing permission."""


class NonFiniteLossError(InputError, FloatingPointError):
    """The loss became infinite or NaN. A FloatingPointError too, as upstream raised one."""


def require_installed(what: str, extra: str, *modules: str) -> None:
    """Raise InputError where optional modules that `what` needs are not installed."""
    if missing := [name for name in modules if not importlib.util.find_spec(name)]:
        raise InputError(
            f"{what} needs {' and '.join(missing)}: "
            f"python -m pip install -r requirements-{extra}.txt"
        )


@contextmanager
def explain_out_of_memory(doing: str, settings: Mapping[str, object]) -> Iterator[None]:
    """Turn running out of a device's memory, or the machine's, into an InputError.

    Args:
        doing: what needed the memory, such as "a training step on cuda".
        settings: those that lower the need, with their values; the best choice first.
    """
    try:
        yield
    except RuntimeError as error:
        # The CPU's allocator raises no class of its own.
        if not (isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)):
            raise
        ways = ", or ".join(f"{key} (now {value})" for key, value in settings.items())
        raise InputError(f"out of memory in {doing}: set {ways} lower") from error
