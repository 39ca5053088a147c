"""The folder of a run: what it was asked to do, and whether it has done it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

import yaml
from filelock import FileLock, Timeout
from yacs.config import CfgNode

from dassl import distributed
from dassl.utils import (
    atomic_write,
    explain_write_error,
    flatten,
    mkdir_if_missing,
    named_checkpoint,
    read_json,
    remove_leftovers,
)
from dassl.utils.errors import InputError

logger = logging.getLogger(__name__)

CONFIG, MARKER, LOCK = "config.yaml", "finished.json", ".lock"
# Settings that say where and how a run computes, not what.
INCIDENTAL = (
    "OUTPUT_DIR",
    "RESUME",
    "VERBOSE",
    "USE_CUDA",
    "DATASET.ROOT",
    "DATASET.DOWNLOAD",
    "DATASET.PAIRS.DOWNLOAD",
    "DATALOADER.NUM_WORKERS",
    "DATALOADER.TEST",
    "DATALOADER.BAD_IMAGES",
    "DATALOADER.DECODED",
    "TRAIN.PRINT_FREQ",
    "TRAIN.CHECKPOINT_FREQ",
    "TEST",
    "OOD",
    "EVAL",
)
# Of any trainer's own: how much is encoded at once, which changes time and memory, not figures.
CHUNKS = ("TEXT_CHUNK", "MICRO_BATCH")


class RunState(Enum):
    NEW = "new"
    STARTED = "started"
    FINISHED = "finished"


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold the folder of a run: no other process trains or evaluates into it meanwhile.

    The system lets go of it when the process ends, however it ends. What a killed process was
    about to write there is removed. Of several ranks, rank 0 holds it for all.

    Raises:
        InputError: another process holds it, or the folder cannot be written to.
    """
    folder = Path(folder)
    lock = FileLock(folder / LOCK)
    distributed.from_main(lambda: _acquire(lock, folder))
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, folder: Path) -> None:
    mkdir_if_missing(folder)
    with explain_write_error(folder / LOCK):
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise InputError(
                f"another process is training or evaluating in {folder}: wait for it, stop it, or "
                "choose another --output-dir"
            ) from error
    remove_leftovers(folder)


def open_run(cfg: CfgNode) -> RunState:
    """As `run_state`; a new run's config is written into its folder."""
    state = run_state(cfg)
    if state is RunState.NEW:
        with atomic_write(Path(cfg.OUTPUT_DIR, CONFIG)) as file:
            file.write(cfg.dump(sort_keys=False))
    return state


def run_state(cfg: CfgNode) -> RunState:
    """State of the run in `cfg.OUTPUT_DIR`.

    A run is finished when its marker says so, not when its folder exists: a
    crashed one is resumed from its last checkpoint. One that never came to a
    checkpoint has nothing to keep, so it may be started with other settings.

    Raises:
        InputError: the folder holds a run with other settings.
    """
    folder = Path(cfg.OUTPUT_DIR)
    before = read_config(folder) if any(folder.glob("*/checkpoint")) else None
    if before is None:
        return RunState.NEW
    differences = _differences(before, cfg)
    if differences:
        raise InputError(
            f"{folder} holds a run with other settings: {'; '.join(differences)}. Choose another "
            "--output-dir, or remove that folder if the run is not wanted"
        )
    return RunState.FINISHED if (folder / MARKER).exists() else RunState.STARTED


def finish_run(cfg: CfgNode, **facts: object) -> None:
    """Mark the run as finished, with a few facts about it."""
    with atomic_write(Path(cfg.OUTPUT_DIR) / MARKER) as file:
        json.dump({"max_epoch": cfg.OPTIM.MAX_EPOCH, **facts}, file, indent=2)


def what_is_kept(folder: str | Path) -> str:
    """A sentence on the newest checkpoint of a run that did not come to its end."""
    notes = sorted(Path(folder).glob("*/checkpoint"))
    newest = [str(named_checkpoint(note.parent)) for note in notes]
    if not newest:
        return f"{folder} holds no checkpoint yet: the same command begins again."
    return f"Kept: {', '.join(newest)}; the same command goes on from there."


def held_out_record(folder: str | Path, images: Sequence[str], root: str, of: str) -> dict:
    """Which images a threshold rests on, for the record: ``of``, their number, and how many of
    them the run in `folder` was trained on, by its split.json; warned of where there are any.

    Args:
        images: paths relative to `root`.
    """
    path, trained = Path(folder, "split.json"), 0
    if path.exists():
        rows = {
            os.path.relpath(os.path.join(root, row[0]), root) for row in read_json(path)["train"]
        }
        trained = len(rows.intersection(images))
    if trained:
        logger.warning(
            "%d of the %d ID images were trained on: figures and thresholds flatter the model. "
            "Keep training and test images apart",
            trained,
            len(images),
        )
    return {"images": of, "count": len(images), "trained_on": trained}


def check_model_dir(path: str | Path) -> None:
    """Raise InputError unless `path` is a folder that may hold a run: not a checkpoint in it, nor
    the folder of its checkpoints."""
    path = Path(path)
    folder = path.parent if path.is_file() else path
    if any(folder.glob("model*.pth.tar*")) and not (folder / CONFIG).exists():
        raise InputError(
            f"--model-dir {path} names checkpoints inside a run's folder: give --model-dir "
            f"{folder.parent}, and --load-epoch N for the checkpoint of an epoch"
        )
    if not path.is_dir():
        found = "it is a file" if path.exists() else "there is no such folder"
        raise InputError(f"--model-dir {path}: {found}. Give the folder of a trained run")


def read_config(folder: str | Path) -> dict | None:
    """The settings a run was made with, None for a folder without them (published files)."""
    path = Path(folder) / CONFIG
    return read_yaml(path) if path.exists() else None


def read_yaml(path: str | Path) -> dict:
    """The settings in a YAML file.

    Raises:
        InputError: it cannot be read, is not YAML, or holds something else than settings.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"config file {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"config file {path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"config file {path} holds no settings (KEY: value lines)")
    return content


def _differences(before: dict, cfg: CfgNode) -> list[str]:
    old, new = flatten(before), flatten(yaml.safe_load(cfg.dump()))
    return [
        f"{key} was {old.get(key)!r}, is {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if not _incidental(key) and old.get(key) != new.get(key)
    ]


def _incidental(key: str) -> bool:
    if key.rpartition(".")[2] in CHUNKS:
        return True
    return any(key == name or key.startswith(f"{name}.") for name in INCIDENTAL)
