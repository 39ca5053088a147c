"""Plan the runs of a sweep: every combination of its methods, shots, settings and seeds.

A run is the arguments of train.py and the config that train.py makes of them, so whatever a sweep
has trained, train.py would have trained, and goes on with.
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
from run.settings import in_pairs, value_of
from trainers.side_by_side import images_seen

# In the folder's name anyway.
NAMED = {*IN_FOLDER, "OPTIM.MAX_EPOCH", "DATALOADER.VIEWS", "MODEL.BACKBONE.NAME"}

Axis = tuple[str, list[str]]  # a config key and its values, as written


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Attributes:
        method: its name in the table: what varies in the sweep, but for the seed.
        args: the arguments of train.py. cfg: the config that they give.
    """

    method: str
    args: argparse.Namespace
    cfg: CfgNode

    @property
    def learns(self) -> bool:
        """Return whether shots and seeds make a difference."""
        return TRAINER_REGISTRY.get(self.cfg.TRAINER.NAME).LEARNS

    @property
    def name(self) -> str:
        return f"{self.method}, seed {self.args.seed}" if self.learns else self.method

    @property
    def folder(self) -> Path:
        return Path(self.cfg.OUTPUT_DIR)

    @property
    def state(self) -> str:
        """Return the word for its state, new, started or finished, or why the run cannot be."""
        if not self.learns:
            return "no training"
        try:
            return run_state(self.cfg).value
        except InputError as error:
            return f"refused ({error})"

    def evaluation(self, **chosen: object) -> argparse.Namespace:
        """Return the arguments of its evaluation, others where they are `chosen`."""
        args = choose(self.args, trains=False, **chosen)
        if self.learns:
            # The OOD sets of today's flags and YAML, as of the runs without training.
            if not (args.dataset or args.dataset_config_file or args.id_data):
                args.dataset = DEFAULT_DATASET
            args.model_dir, args.backbone = str(self.folder), ""  # --set may have named another
        return args


def plan(args: argparse.Namespace) -> list[PlannedRun]:
    """Return the runs that the flags of sweep.py ask for, seeds innermost.

    Raises:
        InputError: as `build_cfg`; a setting that no trainer of the sweep has; two runs with one
            folder.
    """
    axes = [_axis(text) for text in args.set]
    fixed = in_pairs(args.opts)
    for key in [key for key, _ in (*axes, *fixed)]:
        if all(own_key(key, trainer) is None for trainer in args.trainers):
            raise InputError(f"no trainer of this sweep ({', '.join(args.trainers)}) has {key}")
    runs = [run for trainer in args.trainers for run in _runs_of(trainer, args, axes, fixed)]
    twice = [folder for folder, count in Counter(run.folder for run in runs).items() if count > 1]
    if twice:
        raise InputError(
            f"two runs of the sweep would have the folder {twice[0]}: is a trainer, "
            "a seed or a value named twice?"
        )
    return runs


def groups(runs: Iterable[PlannedRun]) -> list[list[PlannedRun]]:
    """Group the runs that see the same images; one that shares none is by itself."""
    parts: dict[str, list[PlannedRun]] = {}
    for run in runs:
        parts.setdefault(images_seen(run.cfg) or str(run.folder), []).append(run)
    return list(parts.values())


def listing(parts: Iterable[list[PlannedRun]]) -> str:
    """Return a table of the runs, group by group."""
    lines = []
    for number, runs in enumerate(parts, 1):
        shared = ", on the same images" if len(runs) > 1 else ""
        lines.append(f"group {number}: {counted(len(runs), 'run')}{shared}")
        width = max(len(run.name) for run in runs)
        lines += [f"  {run.state:<11}  {run.name:<{width}}  {run.folder}" for run in runs]
    return "\n".join(lines)


def own_key(key: str, trainer: str) -> str | None:
    """Return `key` as a run of `trainer` reads it, None if it is a setting of other trainers.

    `TRAINER.*.KEY` is that key of every trainer that has it; `OPTIM` is of those that learn.
    """
    kind = TRAINER_REGISTRY.get(trainer)
    first, node, name = [*key.split(".", 2), "", ""][:3]
    if first == "OPTIM" and not kind.LEARNS:
        return None
    if first != "TRAINER" or node == kind.CONFIG_KEY:
        return key
    if node == "*" and name in kind.CONFIG:
        return f"TRAINER.{kind.CONFIG_KEY}.{name}"
    return None


def _axis(text: str) -> Axis:
    key, equals, values = text.partition("=")
    if not (key and equals and values):
        raise InputError(
            f"--set {text}: write KEY=VALUE,VALUE,..., as in --set TRAINER.LOCOOP.LAMBDA=0.1,0.25"
        )
    return key, re.split(r",(?![^\[(]*[\])])", values)  # not at the commas of a list


def _runs_of(
    trainer: str, args: argparse.Namespace, axes: list[Axis], fixed: list[tuple[str, str]]
) -> list[PlannedRun]:
    fixed = [(own, value) for key, value in fixed if (own := own_key(key, trainer))]
    axes = [(own, values) for key, values in axes if (own := own_key(key, trainer))]
    usual = build_cfg(_arguments(args, trainer, fixed))
    learns = TRAINER_REGISTRY.get(trainer).LEARNS
    shots, seeds = (args.shots or [None], args.seeds) if learns else ([None], [None])
    runs = []
    for shot, *values, seed in product(shots, *(values for _, values in axes), seeds):
        chosen = [(key, value) for (key, _), value in zip(axes, values, strict=True)]
        run = _arguments(args, trainer, fixed + chosen, shots=shot, seed=seed)
        run.output_dir = _folder(args.output_dir, build_cfg(run), chosen, usual, learns)
        varied = [pair for pair, (_, every) in zip(chosen, axes, strict=True) if len(every) > 1]
        method = [trainer, f"{shot} shots"] if len(shots) > 1 else [trainer]
        method += [f"{_short(key)} {value}" for key, value in varied]
        runs.append(PlannedRun(", ".join(method), run, build_cfg(run)))
    return runs


def _arguments(
    args: argparse.Namespace, trainer: str, pairs: list[tuple[str, str]], **chosen: object
) -> argparse.Namespace:
    """Return the arguments of train.py for one run of the sweep `args`."""
    chosen = {"shots": None, "seed": None, "output_dir": "", **chosen}
    return choose(args, trainer=trainer, opts=[word for pair in pairs for word in pair], **chosen)


def _folder(
    root: str, cfg: CfgNode, chosen: list[tuple[str, str]], usual: CfgNode, learns: bool
) -> str:
    """Return the folder that train.py would choose, under `root` in the place of `output`.

    Settings of `--set` that are not the usual ones are added to its name. It depends on the run
    alone: a sweep that is made larger finds the runs it has.
    """
    path, extra = Path(root, *Path(cfg.OUTPUT_DIR).parts[1:]), ""
    for key, _ in chosen:
        value = value_of(cfg, key)
        if _short(key) not in NAMED and value != value_of(usual, key):
            extra += f"_{_short(key).lower()}{value}"
    extra = re.sub(r"[^\w.+-]+", "-", extra)
    if not learns:
        return path.with_name(path.name + extra).as_posix()
    return (path.parent.with_name(path.parent.name + extra) / path.name).as_posix()


def _short(key: str) -> str:
    """Return `key` without the trainer's node, which a run's trainer implies."""
    return key.split(".", 2)[2] if key.startswith("TRAINER.") else key
