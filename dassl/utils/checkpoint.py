"""Checkpoints: written whole or not at all, read without running code."""

import io
import logging
import os
import pickle
import re
import shutil
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .errors import InputError
from .files import atomic_write

logger = logging.getLogger(__name__)

BEST = "model-best.pth.tar"

# Pickled objects that are dropped when read: upstream pickled whole schedulers, and with them
# optimisers; CLIPN's files hold a learning rate as a NumPy scalar.
_DROPPED_MODULES = ("torch.optim.", "dassl.optim.")
_DROPPED_NAMES = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")
_DICTS = ("collections.defaultdict", "__builtin__.dict", "builtins.dict")


def save_checkpoint(
    state: dict[str, Any],
    save_dir: str | os.PathLike,
    is_best: bool = False,
    remove_module_from_keys: bool = True,
    model_name: str = "",
) -> None:
    """Write `state` to `save_dir`/`model_name` (default model.pth.tar-<epoch>).

    The file `checkpoint` then names it; with `is_best` it is also copied to model-best.pth.tar.
    `remove_module_from_keys` strips DataParallel's "module.". Each file is written whole or not at
    all (InputError), and `checkpoint` never names an incomplete one.
    """
    if remove_module_from_keys:
        state = {**state, "state_dict": _without_module(state["state_dict"])}
    path = Path(save_dir, model_name or f"model.pth.tar-{state['epoch']}")
    # Written in memory first: torch's own file writer turns a full disk into a RuntimeError.
    buffer = io.BytesIO()
    with atomic_write(path, "wb") as handle:
        torch.save(state, buffer)
        handle.write(buffer.getbuffer())
    with atomic_write(path.with_name("checkpoint")) as handle:
        handle.write(f"{path.name}\n")
    logger.info("Checkpoint saved to %s", path)
    if is_best:
        with open(path, "rb") as source, atomic_write(path.with_name(BEST), "wb") as copy:
            shutil.copyfileobj(source, copy)


def load_checkpoint(fpath: str | os.PathLike | None) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; code inside it is never run.

    Files of upstream hold pickled optimiser and scheduler objects: those are dropped (their
    entry becomes None). Anything else that would need code is refused.

    Differs from upstream: always on the CPU (`load_state_dict` moves tensors where they belong)
    and always `weights_only=True`.

    Raises:
        InputError: no such file, a folder, a damaged file, one that would run code, or one that
            does not hold a dict.
    """
    if fpath is None or not str(fpath):
        raise InputError("No checkpoint file was named.")
    if os.path.isdir(fpath):
        raise InputError(f"{fpath} is a folder, not a checkpoint file.{_files_in(fpath)}")
    if not os.path.isfile(fpath):
        raise InputError(f"There is no checkpoint {fpath}.{_instead_of(Path(fpath))}")
    if not os.path.getsize(fpath):
        raise InputError(f"{fpath} is empty (0 bytes). Copy or download it again.")
    try:
        content = _load_weights_only(fpath)
    except InputError:
        raise
    except Exception as error:  # torch, pickle, zipfile and struct raise many for a damaged file
        text, code = " ".join(str(error).split()), re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise _refusal(fpath, f"loading it would run code ({code[1]})") from error
        # For pickle's errors, torch's text advises how to run the code: it is not shown.
        is_shown = text and not isinstance(error, pickle.UnpicklingError)
        shown = f" ({text[:200]})" if is_shown else ""
        raise InputError(
            f"{fpath} is not a readable checkpoint; it may be truncated or of another kind{shown}. "
            "Copy or download it again."
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"{fpath} is not a checkpoint: it holds a {type(content).__name__}, "
            "not a dict of weights."
        )
    return content


def named_checkpoint(directory: str | os.PathLike) -> Path | None:
    """Return the file that `directory`/checkpoint names; None if there is no `checkpoint`."""
    pointer = Path(directory, "checkpoint")
    if not pointer.is_file():
        return None
    lines = pointer.read_text(encoding="utf-8").splitlines()
    if not lines or not lines[0].strip():
        raise InputError(f"{pointer} is empty; write the name of a checkpoint file into it.")
    return Path(directory, lines[0].strip())


def load_weights_into(model: nn.Module, state_dict: dict[str, Any], path: Any) -> None:
    """Load `state_dict`; InputError naming `path` if names or shapes differ."""
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        raise InputError(
            f"The checkpoint {path} does not fit the model ({' '.join(str(error).split())[:500]}). "
            "Was it trained with another method, backbone, context length or class list?"
        ) from error


def restore(
    checkpoint: dict[str, Any],
    path: Any,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
    steps: int | None = None,
) -> int:
    """Load a checkpoint into model, optimiser and scheduler; return the epoch to continue at.

    A scheduler whose state is missing (a file of upstream) is stepped forward to the epoch.

    Args:
        steps: if the settings of optimiser and scheduler differ from the checkpoint's, the number
            of steps to advance the scheduler by; the new settings are kept. None: they agree.

    Raises:
        InputError: the weights do not fit the model, or the state is of another optimiser.
    """
    load_weights_into(model, checkpoint["state_dict"], path)
    epoch = int(checkpoint["epoch"])
    if scheduler is not None:
        if steps is None and checkpoint.get("scheduler") is not None:
            scheduler.load_state_dict(checkpoint["scheduler"])
        else:
            with warnings.catch_warnings():
                # torch wants optimizer.step() first; an earlier run made those steps.
                warnings.simplefilter("ignore", UserWarning)
                for _ in range(epoch if steps is None else steps):
                    scheduler.step()
    # After the scheduler, whose steps set learning rates: the optimiser's state holds the right
    # ones, unless its settings have changed.
    if optimizer is not None and checkpoint.get("optimizer") is not None:
        settings = [{**group, "params": None} for group in optimizer.param_groups]
        _load_optimizer(optimizer, checkpoint["optimizer"], path)
        if steps is not None:
            for group, current in zip(optimizer.param_groups, settings, strict=True):
                group.update(current | {"params": group["params"]})
    return epoch


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], path: Any) -> None:
    # SGD takes Adam's state, and Adam SGD's: the momentum would be lost without a word.
    groups = state["param_groups"][0], optimizer.param_groups[0]
    found, asked = ("Adam" if "betas" in group else "SGD" for group in groups)
    try:
        if found != asked:
            raise ValueError(f"{found}, OPTIM asks for {asked}")
        optimizer.load_state_dict(state)
    except ValueError as error:
        raise InputError(
            f"{path} is of another optimiser ({error}): set OPTIM as it was."
        ) from error


def resume_from_checkpoint(
    fdir: str | os.PathLike,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
) -> int:
    """Restore the file that `fdir`/checkpoint names; return the epoch to continue at."""
    path = named_checkpoint(fdir)
    if path is None:
        raise InputError(f"There is no file `checkpoint` in {fdir} to resume from.")
    epoch = restore(load_checkpoint(path), path, model, optimizer, scheduler)
    logger.info("Resumed from %s (epoch %d)", path, epoch)
    return epoch


def load_pretrained_weights(model: nn.Module, weight_path: str | os.PathLike) -> None:
    """Load the entries of a checkpoint or state dict that fit `model`, as `load_fitting` does.

    "module." is stripped.

    Differs from upstream: InputError if nothing fits; there, training continues silently.
    """
    checkpoint = load_checkpoint(weight_path)
    state = checkpoint.get("state_dict", checkpoint)
    if twice := [name for name in state if f"module.{name}" in state]:
        raise InputError(
            f"{weight_path} holds both {twice[0]} and module.{twice[0]}: save one of them alone."
        )
    load_fitting(model, _without_module(state), weight_path)


def load_fitting(model: nn.Module, state_dict: Mapping[str, Any], path: Any) -> None:
    """Load the entries of `state_dict` that fit `model` by name and shape.

    Those that do not fit are left out and listed in a warning; InputError if nothing fits.
    """
    weights = model.state_dict()
    fitting, left_out = OrderedDict(), []
    for name, value in state_dict.items():
        if name in weights and torch.is_tensor(value) and weights[name].shape == value.shape:
            fitting[name] = value
        else:
            left_out.append(name)
    if not fitting:
        raise InputError(
            f"Nothing in {path} fits the model: it holds {left_out[:5]}, "
            f"the model has {list(weights)[:5]} (names and shapes must agree)."
        )
    model.load_state_dict({**weights, **fitting})
    logger.info("Loaded pretrained weights from %s", path)
    if left_out:
        logger.warning("Left out of %s, because names or shapes differ: %s", path, left_out)


class _Dropped:
    """A stand-in for a pickled object that is dropped, such as one of torch.optim."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _PlainDict:
    """A stand-in for dict and defaultdict that is filled with their content, without a factory."""

    def __new__(cls, *args: Any) -> dict:
        return {}


def _load_weights_only(path: str | os.PathLike) -> Any:
    """Load `path` on the CPU. Entries that needed torch.optim or dassl.optim objects become None.

    `torch.load(weights_only=True)` refuses them. Here the names it refuses are listed first,
    without loading, and bound to inert stubs; a name without a stub is refused.
    """
    # Names in torch's old format cannot be listed; torch.load refuses code in it.
    listed = zipfile.is_zipfile(path)
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if listed else []
    stubs = [_stub_for(name, path) for name in names]
    # Opened here, because torch.load would judge a path by its suffix, not by its content.
    with open(path, "rb") as file, torch.serialization.safe_globals(stubs):
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    if not stubs:
        return loaded
    if not isinstance(loaded, dict) or _has_dropped(loaded.get("state_dict")):
        raise _refusal(path, "its weights are objects, not tensors")
    return {key: None if _has_dropped(value) else value for key, value in loaded.items()}


def _stub_for(name: str, path: str | os.PathLike) -> type:
    if name not in _DICTS + _DROPPED_NAMES and not name.startswith(_DROPPED_MODULES):
        raise _refusal(path, f"loading it would run code ({name})")
    # The stub has the refused name, as torch 2.6 finds a safe class only by its module and name.
    module, _, class_name = name.rpartition(".")
    return type(class_name, (_PlainDict if name in _DICTS else _Dropped,), {"__module__": module})


def _has_dropped(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_dropped(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return any(_has_dropped(v) for v in value)
    return isinstance(value, _Dropped)


def _refusal(path: str | os.PathLike, why: str) -> InputError:
    return InputError(
        f"The file {path} was refused: {why}. Only files of tensors, numbers and text are read."
    )


def _without_module(state_dict: dict[str, Any]) -> OrderedDict[str, Any]:
    return OrderedDict((name.removeprefix("module."), v) for name, v in state_dict.items())


def _instead_of(path: Path) -> str:
    """Return what the folder of a missing checkpoint holds, and what to rename, if anything."""
    files = _files_in(path.parent)
    # The best is looked for where no file's name is that of a checkpoint.
    if path.name == BEST and path.parent.is_dir() and any(path.parent.iterdir()):
        files += " Rename the one to load to model.pth.tar-50, the epoch it was trained for."
    return files


def _files_in(folder: str | os.PathLike) -> str:
    if not os.path.isdir(folder):
        return f" The folder {folder} does not exist."
    names = sorted(os.listdir(folder))
    return f" {folder} holds: {', '.join(names[:20]) or 'nothing'}."
