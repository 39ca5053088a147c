"""Errors that a user can mend."""


class InputError(ValueError):
    """Something the user asked for cannot be done as asked.

    The message says what was asked, what was found, what is allowed and how to
    mend it. Entry points print it without a traceback and exit non-zero.
    """


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


class NonFiniteLossError(InputError, FloatingPointError):
    """The loss became infinite or NaN. A FloatingPointError too, as upstream raised one."""
