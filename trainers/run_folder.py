"""The folder of a run: what it was asked to do, and whether it has done it."""

from __future__ import annotations

import json
import logging
from enum import Enum
from pathlib import Path

import yaml
from yacs.config import CfgNode

from dassl.utils import atomic_write, flatten
from dassl.utils.errors import InputError

logger = logging.getLogger(__name__)

CONFIG, MARKER = "config.yaml", "finished.json"
# Settings that say where and how a run computes, not what.
INCIDENTAL = (
    "OUTPUT_DIR", "RESUME", "VERBOSE", "USE_CUDA", "DATASET.ROOT", "DATALOADER.NUM_WORKERS",
    "DATALOADER.TEST", "DATALOADER.BAD_IMAGES", "TRAIN.PRINT_FREQ", "TRAIN.CHECKPOINT_FREQ",
    "TEST", "OOD",
)


class RunState(Enum):
    NEW = "new"
    STARTED = "started"
    FINISHED = "finished"


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
    if key.endswith(".TEXT_CHUNK"):  # of any trainer: how much is encoded at once
        return True
    return any(key == name or key.startswith(f"{name}.") for name in INCIDENTAL)
