"""Hold the folder of a run: who works in it, what it was asked to do, whether it has done it."""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from yacs.config import CfgNode

from dassl import distributed
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import InputError, flatten, mkdir_if_missing, named_checkpoint, plain, read_json
from dassl.utils.files import atomic_write, explain_write_error, remove_leftovers, write_json
from run.settings import default_cfg, read_yaml

logger = logging.getLogger(__name__)

CONFIG, MARKER, LOCK = "config.yaml", "finished.json", ".lock"
KEPT = ("*/checkpoint", "*.parquet")  # what took long to make, in the folder of a command
# Settings that say where and how a run computes, not what.
INCIDENTAL = (
    *("OUTPUT_DIR", "RESUME", "VERBOSE", "USE_CUDA", "TEST", "OOD", "EVAL"),
    *("DATASET.ROOT", "DATASET.DOWNLOAD", "DATASET.PAIRS.DOWNLOAD"),
    *("DATALOADER.NUM_WORKERS", "DATALOADER.TEST", "DATALOADER.BAD_IMAGES", "DATALOADER.DECODED"),
    *("TRAIN.PRINT_FREQ", "TRAIN.CUDA_GRAPH", "TRAIN.CHECKPOINT_FREQ"),
)


class RunState(Enum):
    NEW = "new"
    STARTED = "started"
    FINISHED = "finished"


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold the folder of a run: no other process trains or evaluates into it meanwhile.

    The system lets go of it when the process ends, however it ends. What a killed process was
    about to write there is removed. Of several ranks, rank 0 holds it for all. If the folder was
    not there before and the run is refused, nothing of it is left.

    Raises:
        InputError: another process holds it, or the folder cannot be written to.
    """
    folder = Path(folder)
    lock = FileLock(folder / LOCK)
    made = distributed.from_main(lambda: _acquire(lock, folder))
    try:
        yield
    except InputError:
        kept = any(path for pattern in KEPT for path in folder.glob(pattern))
        if made and distributed.is_main() and not kept:
            shutil.rmtree(made[0], ignore_errors=True)
            with suppress(OSError):  # another run has begun there
                for path in made[1:]:
                    path.rmdir()
        raise
    finally:
        lock.release()


def _acquire(lock: FileLock, folder: Path) -> list[Path]:
    """Acquire the lock and return the folders that were made for it, innermost first."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    mkdir_if_missing(folder)
    with explain_write_error(folder / LOCK):
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise InputError(
                f"another process works in {folder}: wait for it, stop it, or choose another "
                "output folder"
            ) from error
    remove_leftovers(folder)
    return made


def open_run(cfg: CfgNode) -> RunState:
    """Return the state of a run, see `run_state`; write a new run's config into its folder."""
    state = run_state(cfg)
    if state is RunState.NEW:
        with atomic_write(Path(cfg.OUTPUT_DIR, CONFIG)) as file:
            file.write(cfg.dump(sort_keys=False))
    return state


def run_state(cfg: CfgNode) -> RunState:
    """Return the state of the run in `cfg.OUTPUT_DIR`.

    A run is finished when its marker says so, not when its folder exists. One that never came to
    a checkpoint has nothing to keep, so it may be started with other settings.

    Raises:
        InputError: the folder holds a run with other settings.
    """
    folder = Path(cfg.OUTPUT_DIR)
    before = read_config(folder) if any(folder.glob("*/checkpoint")) else None
    if before is None:
        return RunState.NEW
    if differences := _differences(before, cfg):
        raise InputError(
            f"{folder} holds a run with other settings: {'; '.join(differences)}. Choose another "
            "--output-dir, or remove that folder if the run is not wanted"
        )
    return RunState.FINISHED if (folder / MARKER).exists() else RunState.STARTED


def finish_run(cfg: CfgNode) -> None:
    """Mark a run as trained to its end."""
    facts = {"max_epoch": cfg.OPTIM.MAX_EPOCH, "trainer": cfg.TRAINER.NAME, "seed": cfg.SEED}
    write_json(facts, Path(cfg.OUTPUT_DIR, MARKER))


def what_is_kept(folder: str | Path) -> str:
    """Return a sentence on the newest checkpoint of a run that did not come to its end."""
    notes = sorted(Path(folder).glob("*/checkpoint"))
    newest = [str(named_checkpoint(note.parent)) for note in notes]
    if not newest:
        return f"{folder} holds no checkpoint yet: the same command begins again."
    return f"Kept: {', '.join(newest)}; the same command goes on from there."


def held_out_record(folder: str | Path, images: Sequence[str], root: str, of: str) -> dict:
    """Return the record of the ID images that a threshold rests on; warn if some were trained on.

    Args:
        folder: of the run, whose split.json says what it was trained on.
        images: paths relative to `root`.
        of: what the images are.
    """
    path = Path(folder, "split.json")
    rows = read_json(path)["train"] if path.exists() else ()
    names = {os.path.relpath(os.path.join(root, row[0]), root) for row in rows}
    trained = len(names.intersection(images))
    if trained:
        logger.warning(
            f"{trained} of the {len(images)} ID images were trained on: figures and thresholds "
            "flatter the model. Keep training and test images apart"
        )
    return {"images": of, "count": len(images), "trained_on": trained}


def check_model_dir(path: str | Path) -> None:
    """Raise InputError unless `path` is a folder that may be a run's.

    It is none if it is a checkpoint, a folder of checkpoints inside a run, or a folder of runs.
    """
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
    runs = sorted({str(note.parents[1]) for note in path.glob("*/**/checkpoint")} - {str(path)})
    if runs and not any(path.glob("*/checkpoint")):
        more = ", ..." if len(runs) > 3 else ""
        raise InputError(f"--model-dir {path} holds runs, name one: {', '.join(runs[:3])}{more}")


def read_config(folder: str | Path) -> dict | None:
    """Return the settings a run was made with, None for a folder without them (published files).

    Settings that an older version had are left out.
    """
    path = Path(folder) / CONFIG
    if not path.exists():
        return None
    content = read_yaml(path)
    if not content.get("TRAINER"):
        raise InputError(f"config file {path} holds no run's settings: it names no TRAINER")
    return _known(content, default_cfg())


def _known(content: Any, usual: Any) -> Any:
    """Return `content` without what `usual` lacks, but for the groups that are free for names."""
    if not (isinstance(content, dict) and isinstance(usual, CfgNode)) or usual.is_new_allowed():
        return content
    return {key: _known(value, usual[key]) for key, value in content.items() if key in usual}


def _differences(before: dict, cfg: CfgNode) -> list[str]:
    """Return how the settings of a run differ from those it had before, in words."""
    old = flatten(plain(default_cfg())) | flatten(before)
    new = flatten(plain(cfg))
    own = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    incidental = INCIDENTAL + tuple(f"TRAINER.{own.CONFIG_KEY}.{key}" for key in own.INCIDENTAL)
    return [
        f"{key} was {old.get(key)!r}, is {value!r}"
        for key, value in sorted(new.items())
        if old.get(key) != value
        and not any(key == name or key.startswith(f"{name}.") for name in incidental)
    ]
