"""Figures as files: PNG, PDF or SVG by the suffix."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InputError
from .files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf", "svg")
# Fonts that publishers accept (no Type 3), and the same file from the same figure.
SETTINGS = {"pdf.fonttype": 42, "svg.hashsalt": "figure"}
UNDATED = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


def figure_path(path: str | os.PathLike) -> Path:
    """Return `path` as a Path if its suffix is one of FORMATS.

    Raises:
        InputError: it is not.
    """
    path = Path(path)
    if path.suffix.lower().removeprefix(".") not in FORMATS:
        raise InputError(f"{path}: a figure is a .png, .pdf or .svg file")
    return path


def save_figure(figure: Figure, path: str | os.PathLike) -> Path:
    """Write the figure in the format that the suffix names, atomically, and return its path."""
    # Imported here: trainers import this module and should not wait for matplotlib.
    from matplotlib import rc_context

    path = figure_path(path)
    suffix = path.suffix.lower().removeprefix(".")
    with atomic_write(path, "wb") as file, rc_context(SETTINGS):
        figure.savefig(file, format=suffix, metadata=UNDATED[suffix])
    return path
