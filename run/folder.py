"""The folder of a run: its lock, its settings, and whether the run is finished."""

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
from dassl.config.defaults import DATASET
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import InputError, flatten, mkdir_if_missing, named_checkpoint, plain, read_json
from dassl.utils.files import atomic_write, explain_write_error, remove_leftovers, write_json
from ood.library import PREFIX
from run.settings import default_cfg, read_yaml

logger = logging.getLogger(__name__)

CONFIG, MARKER, LOCK, SPLIT = "config.yaml", "finished.json", ".lock", "split.json"
# Costly to make: a folder with such files is not removed.
KEPT = ("*/checkpoint", "*.parquet", "results.json")
# Settings that say where and how a run computes, not what it computes.
INCIDENTAL = (
    *("OUTPUT_DIR", "RESUME", "VERBOSE", "USE_CUDA", "OOD", "EVAL"),
    *("TEST.EVALUATOR", "TEST.NO_TEST", "TEST.SPLIT"),  # not FINAL_MODEL
    *("DATASET.ROOT", "DATASET.DOWNLOAD", "DATASET.PAIRS.DOWNLOAD"),
    *("DATALOADER.NUM_WORKERS", "DATALOADER.TEST", "DATALOADER.BAD_IMAGES"),
    *("TRAIN.PRINT_FREQ", "TRAIN.CUDA_GRAPH", "TRAIN.CHECKPOINT_FREQ"),
)
# Settings that an evaluation may change: its data, and where files of weights are now.
MAY_DIFFER = ("MODEL", *(f"DATASET.{key}" for key in DATASET if key not in ("NUM_SHOTS", "PAIRS")))


class RunState(Enum):
    NEW = "new"
    STARTED = "started"
    FINISHED = "finished"


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Lock the folder of a run, so that no other process trains or evaluates into it meanwhile.

    The operating system releases the lock when the process ends, however it ends. Temporary files
    of a killed process are removed. Of several ranks, rank 0 holds the lock for all. If the folder
    is new and the run is refused, the folder is removed again.

    Raises:
        InputError: another process holds the lock, or the folder cannot be written to.
    """
    folder = Path(folder)
    lock = FileLock(folder / LOCK)
    created = distributed.from_main(lambda: _acquire(lock, folder))
    try:
        yield
    except InputError:
        worth_keeping = any(path for pattern in KEPT for path in folder.glob(pattern))
        if created and distributed.is_main() and not worth_keeping:
            shutil.rmtree(created[0], ignore_errors=True)
            with suppress(OSError):  # another run may have begun in a parent folder
                for path in created[1:]:
                    path.rmdir()
        raise
    finally:
        lock.release()


def _acquire(lock: FileLock, folder: Path) -> list[Path]:
    """Acquire the lock and return the folders that were created for it, innermost first."""
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    mkdir_if_missing(folder)
    with explain_write_error(folder / LOCK):
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise InputError(
                f"another process works in {folder}: wait for it, stop it, or choose another "
                f"output folder. If it ran on a machine that is gone, remove {folder / LOCK}"
            ) from error
    remove_leftovers(folder)
    for part in filter(Path.is_dir, folder.iterdir()):  # no deeper: other runs may lie below
        if not os.path.exists(part / LOCK):  # False where another user permits no look
            remove_leftovers(part)
    return created


def open_run(cfg: CfgNode) -> RunState:
    """Return the `run_state`, and write the config of a new run into its folder."""
    state = run_state(cfg)
    if state is RunState.NEW:
        if not _has_checkpoint(cfg.OUTPUT_DIR):  # files of a run whose checkpoints are gone
            for name in (MARKER, SPLIT):
                Path(cfg.OUTPUT_DIR, name).unlink(missing_ok=True)
        with atomic_write(Path(cfg.OUTPUT_DIR, CONFIG)) as file:
            file.write(cfg.dump(sort_keys=False))
    return state


def run_state(cfg: CfgNode) -> RunState:
    """Return the state of the run in `cfg.OUTPUT_DIR`.

    A run is finished when its marker exists, not when its folder does. A run without a checkpoint
    counts as new, whatever settings it was started with.

    Raises:
        InputError: the folder holds a run with other, or unknown, settings.
    """
    folder = Path(cfg.OUTPUT_DIR)
    if not _has_checkpoint(folder):
        return RunState.NEW
    previous = read_config(folder)
    if previous is None:
        if cfg.RESUME and Path(cfg.RESUME).resolve() == folder.resolve():
            return RunState.NEW
        raise InputError(
            f"{folder} holds checkpoints but no {CONFIG} that says how they were trained. Put that "
            "file back, choose another --output-dir, or give --resume to continue from them with "
            f"these settings: --resume {folder}"
        )
    if differences := _differences(previous, cfg):
        raise InputError(
            f"{folder} holds a run with other settings: {'; '.join(differences)}. Choose another "
            f"--output-dir, with --resume {folder} to go on from its checkpoints, or remove that "
            "folder if the run is not wanted"
        )
    return RunState.FINISHED if (folder / MARKER).exists() else RunState.STARTED


def _has_checkpoint(folder: str | Path) -> bool:
    return any(Path(folder).glob("*/checkpoint"))


def finish_run(cfg: CfgNode) -> None:
    """Write the marker of a finished training."""
    facts = {"max_epoch": cfg.OPTIM.MAX_EPOCH, "trainer": cfg.TRAINER.NAME, "seed": cfg.SEED}
    write_json(facts, Path(cfg.OUTPUT_DIR, MARKER))


def training_ended(folder: str | Path, last: int) -> bool:
    """Return whether the run in `folder` has trained its `last` epoch: its marker may be missing in
    a copy, and the checkpoint of that epoch beside the best one."""
    return Path(folder, MARKER).exists() or any(Path(folder).glob(f"*/model.pth.tar-{last}"))


def describe_checkpoints(folder: str | Path) -> str:
    """Return a sentence on the newest checkpoint of an unfinished run."""
    pointers = sorted(Path(folder).glob("*/checkpoint"))
    newest = [str(named_checkpoint(pointer.parent)) for pointer in pointers]
    if not newest:
        return f"{folder} holds no checkpoint yet: the same command starts again."
    return f"Kept: {', '.join(newest)}; the same command resumes from there."


def held_out_record(folder: str | Path, images: Sequence[str], root: str, source: str) -> dict:
    """Return the record of the ID images behind a threshold; warn if some were trained on.

    Args:
        folder: the run's folder, whose split.json lists its training images.
        images: paths relative to `root`.
        source: where the images come from, for the record.
    """
    path = Path(folder, SPLIT)
    rows = read_json(path)["train"] if path.exists() else ()
    training_images = {os.path.relpath(os.path.join(root, row[0]), root) for row in rows}
    trained = len(training_images.intersection(images))
    if trained:
        logger.warning(
            f"{trained} of the {len(images)} ID images were trained on: figures and thresholds "
            "flatter the model. Keep training and test images apart"
        )
    return {"images": source, "count": len(images), "trained_on": trained}


def check_model_dir(path: str | Path) -> None:
    """Raise InputError unless `path` may be the folder of a run.

    A checkpoint, a folder of checkpoints inside a run, and a folder of runs are refused.
    """
    path = Path(path)
    folder = path.parent if path.is_file() else path
    if any(folder.glob("model*.pth.tar*")) and not (folder / CONFIG).exists():
        raise InputError(
            f"--model-dir {path} names checkpoints inside a run's folder: give --model-dir "
            f"{folder.parent}, and --load-epoch N for the checkpoint of an epoch"
        )
    if not path.is_dir():
        problem = "it is a file" if path.exists() else "there is no such folder"
        raise InputError(f"--model-dir {path}: {problem}. Give the folder of a trained run")
    runs = sorted({str(file.parents[1]) for file in path.glob("*/**/checkpoint")} - {str(path)})
    if runs and not _has_checkpoint(path):
        more = ", ..." if len(runs) > 3 else ""
        raise InputError(f"--model-dir {path} holds runs, name one: {', '.join(runs[:3])}{more}")


def read_config(folder: str | Path) -> dict | None:
    """Return the settings of a run, or None for a folder without a config (published files) and
    for no folder, "". Settings that only older versions knew are left out."""
    path = Path(folder) / CONFIG
    if not folder or not path.exists():
        return None
    content = read_yaml(path)
    if not content.get("TRAINER"):
        raise InputError(f"config file {path} has no TRAINER group, so it is not a run's config")
    return _drop_unknown(content, default_cfg())


def _drop_unknown(content: Any, defaults: Any) -> Any:
    """Return `content` without keys that `defaults` lacks; groups open to new keys keep all."""
    is_group = isinstance(content, dict) and isinstance(defaults, CfgNode)
    if not is_group or defaults.is_new_allowed():
        return content
    known = {key: value for key, value in content.items() if key in defaults}
    return {key: _drop_unknown(value, defaults[key]) for key, value in known.items()}


def check_evaluation(folder: str | Path, run: dict, cfg: CfgNode) -> None:
    """Raise InputError if `cfg` evaluates the `run` in `folder` as if it were trained otherwise.

    Scores of pytorch-ood may be fitted to other shots than those of the training.
    """
    trainer_class = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    keys = [f"TRAINER.{trainer_class.CONFIG_KEY}.{k}" for k in ("PREC", *trainer_class.MAY_DIFFER)]
    keys += ["DATASET.NUM_SHOTS"] if PREFIX in cfg.EVAL.SCORES else []
    if differences := _differences(run, cfg, (*MAY_DIFFER, *keys)):
        raise InputError(
            f"{folder} was trained with other settings: {'; '.join(differences)}. An evaluation "
            "keeps those of the training: leave them out, or name another run"
        )


def _differences(previous: dict, cfg: CfgNode, ignored: Sequence[str] = ()) -> list[str]:
    """Return a phrase for each setting of the run in `cfg` that differs from its `previous` one."""
    old = flatten(plain(default_cfg())) | flatten(previous)
    new = flatten(plain(cfg))
    trainer_class = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    node = f"TRAINER.{trainer_class.CONFIG_KEY}"
    incidental = *INCIDENTAL, *(f"{node}.{key}" for key in trainer_class.INCIDENTAL), *ignored
    return [
        f"{key} was {old.get(key)!r}, is {value!r}"
        for key, value in sorted(new.items())
        if old.get(key) != value
        and not any(key == name or key.startswith(f"{name}.") for name in incidental)
    ]
