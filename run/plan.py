"""Plan the runs of a sweep: every combination of its methods, shots, settings and seeds.

A run is made of the arguments of train.py and the config that train.py builds from them. So
train.py can resume any run of a sweep, and a sweep any run of train.py.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from yacs.config import CfgNode

from dassl.engine import TRAINER_REGISTRY
from dassl.utils.errors import InputError
from datasets.folders import counted
from run.config import IN_FOLDER, build_cfg
from run.flags import DEFAULT_DATASET, choose
from run.folder import run_state
from run.settings import value_of
from trainers.side_by_side import images_seen

# Settings that `run.config.default_folder` puts into the folder's name.
NAMED = {*IN_FOLDER, "OPTIM.MAX_EPOCH", "DATALOADER.VIEWS", "MODEL.BACKBONE.NAME"}

FLAGS = {  # settings that sweep.py has flags for
    "TRAINER.NAME": "--trainers",
    "DATASET.NUM_SHOTS": "--shots",
    "SEED": "--seeds",
    "OUTPUT_DIR": "--output-dir",
}

Axis = tuple[str, list[str]]  # a config key and its values, as the user wrote them


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Attributes:
        method: its name in the table, made of all that varies in the sweep except the seed.
        args: the arguments of train.py. cfg: the config built from them.
    """

    method: str
    args: argparse.Namespace
    cfg: CfgNode

    @property
    def learns(self) -> bool:
        """Return whether the run is trained, so that shots and seeds matter."""
        return TRAINER_REGISTRY.get(self.cfg.TRAINER.NAME).LEARNS

    @property
    def name(self) -> str:
        return f"{self.method}, seed {self.args.seed}" if self.learns else self.method

    @property
    def folder(self) -> Path:
        return Path(self.cfg.OUTPUT_DIR)

    @property
    def state(self) -> str:
        """Return its state as a word (new, started, finished), or why it is refused."""
        if not self.learns:
            return "no training"
        try:
            return run_state(self.cfg).value
        except InputError as error:
            return f"refused ({error})"

    def evaluation(self, **chosen: object) -> argparse.Namespace:
        """Return the arguments of its evaluation, updated with `chosen`."""
        args = choose(self.args, trains=False, **chosen)
        if self.learns:
            # Naming the data set brings in its current OOD sets, as for methods without training.
            if not (args.dataset or args.dataset_config_file or args.id_data):
                args.dataset = DEFAULT_DATASET
            args.model_dir, args.backbone = str(self.folder), ""  # its config names the backbone
        return args


def plan(args: argparse.Namespace) -> list[PlannedRun]:
    """Return the runs that the flags of sweep.py ask for; seeds vary fastest.

    Raises:
        InputError: as `build_cfg`; a setting that has a flag, or that no trainer of the sweep has;
            two runs with the same folder.
    """
    axes = [_axis(text) for text in args.set]
    for key in [key for key, _ in (*axes, *args.opts)]:
        if key in FLAGS:
            raise InputError(f"{key} has a flag of its own in a sweep: use {FLAGS[key]}")
        if all(key_for_trainer(key, trainer) is None for trainer in args.trainers):
            raise InputError(f"no trainer of this sweep ({', '.join(args.trainers)}) has {key}")
    runs = [run for trainer in args.trainers for run in _runs_of(trainer, args, axes)]
    ((folder, count),) = Counter(run.folder for run in runs).most_common(1)
    if count > 1:
        raise InputError(
            f"two runs of the sweep would have the folder {folder}: name each trainer, seed and "
            "value once"
        )
    return runs


def group_by_images(runs: Iterable[PlannedRun]) -> list[list[PlannedRun]]:
    """Group the runs that see the same images; a run that shares none is a group of its own."""
    groups: dict[str, list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault(images_seen(run.cfg) or str(run.folder), []).append(run)
    return list(groups.values())


def list_runs(groups: Iterable[list[PlannedRun]]) -> str:
    """Return a table of the runs, group by group."""
    lines = []
    for number, runs in enumerate(groups, 1):
        shared = ", on the same images" if len(runs) > 1 else ""
        lines.append(f"group {number}: {counted(len(runs), 'run')}{shared}")
        width = max(len(run.name) for run in runs)
        lines += [f"  {run.state:<11}  {run.name:<{width}}  {run.folder}" for run in runs]
    return "\n".join(lines)


def key_for_trainer(key: str, trainer: str) -> str | None:
    """Return `key` with `*` resolved for `trainer`, or None if the trainer has no such setting.

    `TRAINER.*.KEY` is KEY of every trainer that has it. Only trainers that learn have `OPTIM`.
    """
    trainer_class = TRAINER_REGISTRY.get(trainer)
    first, node, name = [*key.split(".", 2), "", ""][:3]
    if first == "OPTIM" and not trainer_class.LEARNS:
        return None
    if first != "TRAINER" or node == trainer_class.CONFIG_KEY:
        return key
    if node == "*" and name in trainer_class.CONFIG:
        return f"TRAINER.{trainer_class.CONFIG_KEY}.{name}"
    return None


def _axis(text: str) -> Axis:
    key, equals, values = text.partition("=")
    if not (key and equals and values):
        raise InputError(
            f"--set {text}: write KEY=VALUE,VALUE,..., as in --set TRAINER.LOCOOP.LAMBDA=0.1,0.25"
        )
    return key, re.split(r",(?![^\[(]*[\])])", values)  # but not at commas inside a list


def _runs_of(trainer: str, args: argparse.Namespace, axes: list[Axis]) -> list[PlannedRun]:
    fixed = [(name, value) for key, value in args.opts if (name := key_for_trainer(key, trainer))]
    axes = [(name, values) for key, values in axes if (name := key_for_trainer(key, trainer))]
    # The arguments of train.py for any of the runs; each has shots, a seed and settings of its own.
    shared = choose(args, trainer=trainer, shots=None, seed=None, output_dir="", opts=fixed)
    base = build_cfg(shared)
    learns = TRAINER_REGISTRY.get(trainer).LEARNS
    shots, seeds = (args.shots or [None], args.seeds) if learns else ([None], [None])
    runs = []
    for shot, *values, seed in product(shots, *(values for _, values in axes), seeds):
        chosen = [(key, value) for (key, _), value in zip(axes, values, strict=True)]
        run = choose(shared, shots=shot, seed=seed, opts=fixed + chosen)
        run.output_dir = _folder(args.output_dir, build_cfg(run), chosen, base, learns)
        varied = [pair for pair, (_, axis) in zip(chosen, axes, strict=True) if len(axis) > 1]
        method = [trainer, counted(shot, "shot")] if len(shots) > 1 else [trainer]
        method += [f"{_without_node(key)} {value}" for key, value in varied]
        runs.append(PlannedRun(", ".join(method), run, build_cfg(run)))
    return runs


def _folder(
    root: str, cfg: CfgNode, chosen: list[tuple[str, str]], base: CfgNode, learns: bool
) -> str:
    """Return the default folder of a run, under `root` in place of `output`.

    Settings of `--set` with other values than in the config `base` are added to its name. The name
    depends on the run alone, so that an enlarged sweep finds the runs it has already trained.
    """
    path, suffix = Path(root, *Path(cfg.OUTPUT_DIR).parts[1:]), ""
    for key, _ in chosen:
        name, value = _without_node(key), value_of(cfg, key)
        if name not in NAMED and value != value_of(base, key):
            suffix += f"_{name.lower()}{value}"
    suffix = re.sub(r"[^\w.+-]+", "-", suffix)
    if not learns:
        return path.with_name(path.name + suffix).as_posix()
    return (path.parent.with_name(path.parent.name + suffix) / path.name).as_posix()


def _without_node(key: str) -> str:
    """Return `key` without the trainer's node, which the run's trainer implies."""
    return key.split(".", 2)[2] if key.startswith("TRAINER.") else key
