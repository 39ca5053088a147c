"""Reading checkpoints that hold pickled objects without running any of their code.

Upstream pickled whole schedulers, and with them optimisers. `torch.load(weights_only=True)`
refuses such files. Here the names it refuses are listed first, statically; names under
torch.optim and dassl.optim are then bound to an inert stub, so that the file loads with the
objects' contents thrown away. So are numpy's scalars (CLIPN's files hold a learning rate as one).
Every other name is refused.
"""

from __future__ import annotations

import logging
import os
import zipfile
from typing import Any

import torch

from .errors import InputError

logger = logging.getLogger(__name__)

_DROPPED_MODULES = ("torch.optim.", "dassl.optim.")
_DROPPED_NAMES = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")


class _Dropped:
    """A stand-in for a pickled object whose content is dropped, such as one of torch.optim."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _PlainDict:
    """A stand-in for dict and defaultdict: contents are filled in, a factory is not kept."""

    def __new__(cls, *args: Any) -> dict:
        return {}


_DICTS = ("collections.defaultdict", "__builtin__.dict", "builtins.dict")


def load_weights_only(path: str | os.PathLike) -> Any:
    """Load `path` on the CPU. Entries that needed torch.optim or dassl.optim objects become None.

    Raises:
        InputError: the file names other code, or its weights themselves are such objects.
        Exception: whatever torch raises for a damaged file.
    """
    stubs = [_stub_for(name, path) for name in _names_of_code(path)]
    # Opened here: of a path, torch.load believes the ending before the content.
    with open(path, "rb") as file, torch.serialization.safe_globals(stubs):
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    return _without_dropped(loaded, path) if stubs else loaded


def _names_of_code(path: str | os.PathLike) -> list[str]:
    if not zipfile.is_zipfile(path):
        return []  # torch's old format cannot be listed; torch.load refuses code in it
    return torch.serialization.get_unsafe_globals_in_checkpoint(path)


def _stub_for(name: str, path: str | os.PathLike) -> type:
    if name in _DICTS:
        stub = _PlainDict
    elif name.startswith(_DROPPED_MODULES) or name in _DROPPED_NAMES:
        stub = _Dropped
    else:
        raise InputError(
            f"The file {path} was refused: loading it would run code ({name}). "
            "Ask for a file that holds only tensors, numbers and text."
        )
    # Under the refused name itself: torch 2.6 finds a safe class by its module and name only.
    module, _, own = name.rpartition(".")
    return type(own, (stub,), {"__module__": module})


def _without_dropped(loaded: Any, path: str | os.PathLike) -> dict:
    if not isinstance(loaded, dict) or _has_dropped(loaded.get("state_dict")):
        raise InputError(f"The file {path} was refused: its weights are objects, not tensors.")
    dropped = [key for key, value in loaded.items() if _has_dropped(value)]
    logger.info("Left out of %s, as only code could read them: %s", path, dropped)
    return {key: None if key in dropped else value for key, value in loaded.items()}


def _has_dropped(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_dropped(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return any(_has_dropped(v) for v in value)
    return isinstance(value, _Dropped)
