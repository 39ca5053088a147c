"""The runs of a study: every combination of its methods, shots, settings and seeds.

A run is a command line of train.py and the config that train.py makes of it, so whatever a study
has trained, train.py would have trained, and goes on with.
"""

from __future__ import annotations

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
from run.config import IN_FOLDER, build_cfg, in_pairs, setting
from run.flags import COMMON_FLAGS, make_parser
from run.folder import run_state
from trainers.side_by_side import images_seen

Axis = tuple[str, list[str]]  # a config key and its values, as written


@dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
        method: what the table calls it: what varies in the study, but for the seed.
        seed: None for a method that learns nothing, of which there is one run.
        arguments, pairs: flags and KEY VALUE pairs of train.py.
        cfg: what they give.
    """

    method: str
    seed: int | None
    arguments: list[str]
    pairs: list[str]
    cfg: CfgNode

    @property
    def name(self) -> str:
        return self.method if self.seed is None else f"{self.method}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        return Path(self.cfg.OUTPUT_DIR)

    @property
    def state(self) -> str:
        """new, started or finished; or why the run cannot be."""
        if self.seed is None:
            return "no training"
        try:
            return run_state(self.cfg).value
        except InputError as error:
            return f"refused ({error})"


def plan(args: argparse.Namespace) -> list[Run]:
    """The runs that the flags of sweep.py ask for, seeds innermost.

    Raises:
        InputError: as `build_cfg`; a setting that no trainer of the study has; two runs with one
            folder.
    """
    axes = [_axis(text) for text in args.set]
    fixed = in_pairs(args.opts)
    for key in [key for key, _ in (*axes, *fixed)]:
        if all(own_key(key, trainer) is None for trainer in args.trainers):
            raise InputError(f"no trainer of this study ({', '.join(args.trainers)}) has {key}")
    runs = [run for trainer in args.trainers for run in _runs_of(trainer, args, axes, fixed)]
    twice = [folder for folder, count in Counter(run.folder for run in runs).items() if count > 1]
    if twice:
        raise InputError(
            f"two runs of the study would have the folder {twice[0]}: is a trainer, "
            "a seed or a value named twice?"
        )
    return runs


def groups(runs: Iterable[Run]) -> list[list[Run]]:
    """The runs in the groups that see the same images; one that shares none is by itself."""
    parts: dict[str, list[Run]] = {}
    for run in runs:
        parts.setdefault(images_seen(run.cfg) or str(run.folder), []).append(run)
    return list(parts.values())


def listing(parts: Iterable[list[Run]]) -> str:
    """A table of the runs, group by group."""
    lines = []
    for number, runs in enumerate(parts, 1):
        shared = ", on the same images" if len(runs) > 1 else ""
        lines.append(f"group {number}: {counted(len(runs), 'run')}{shared}")
        width = max(len(run.name) for run in runs)
        lines += [f"  {run.state:<11}  {run.name:<{width}}  {run.folder}" for run in runs]
    return "\n".join(lines)


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def own_key(key: str, trainer: str) -> str | None:
    """`key` as a run of `trainer` reads it, None if it is a setting of other trainers.

    `TRAINER.*.KEY` is that key of every trainer that has it; `OPTIM` is of those that learn.
    """
    kinds = [TRAINER_REGISTRY.get(name) for name in TRAINER_REGISTRY.registered_names()]
    nodes = {kind.CONFIG_KEY for kind in kinds if kind.CONFIG_KEY}
    kind = TRAINER_REGISTRY.get(trainer)
    own = kind.CONFIG_KEY
    first, _, rest = key.partition(".")
    node, _, name = rest.partition(".")
    if first == "OPTIM" and not learns(trainer):
        return None
    if first != "TRAINER" or node not in {"*", *nodes}:
        return key
    if node == "*":
        return f"TRAINER.{own}.{name}" if name in getattr(kind, "CONFIG", {}) else None
    return key if node == own else None


def learns(trainer: str) -> bool:
    """Whether shots and seeds make a difference to it."""
    return getattr(TRAINER_REGISTRY.get(trainer), "LEARNS", True)


def _axis(text: str) -> Axis:
    key, equals, values = text.partition("=")
    if not (key and equals and values):
        raise InputError(
            f"--set {text}: write KEY=VALUE,VALUE,..., as in --set TRAINER.LOCOOP.LAMBDA=0.1,0.25"
        )
    return key, re.split(r",(?![^\[(]*[\])])", values)  # not at the commas of a list


def _runs_of(
    trainer: str, args: argparse.Namespace, axes: list[Axis], fixed: list[tuple[str, str]]
) -> list[Run]:
    common = [
        word
        for flag in COMMON_FLAGS
        if (value := getattr(args, flag.replace("-", "_")))
        for word in (f"--{flag}", value)
    ]
    common += [word for folder in args.ood_data for word in ("--ood-data", folder)]
    common += ["--trainer", trainer]
    fixed = [(own, value) for key, value in fixed if (own := own_key(key, trainer))]
    axes = [(own, values) for key, values in axes if (own := own_key(key, trainer))]
    usual = _config(common, fixed)
    shots, seeds = (args.shots or [None], args.seeds) if learns(trainer) else ([None], [None])
    runs = []
    for shot, *values, seed in product(shots, *(values for _, values in axes), seeds):
        chosen = [(key, value) for (key, _), value in zip(axes, values, strict=True)]
        flags = [*common, *_flag("--shots", shot), *_flag("--seed", seed)]
        cfg = _config(flags, fixed + chosen)
        folder = _folder(args.output_dir, cfg, chosen, usual)
        cfg.defrost()
        cfg.OUTPUT_DIR = folder
        cfg.freeze()
        method = [
            trainer,
            *([f"{shot} shots"] if len(shots) > 1 else []),
            *(
                f"{_short(key)} {value}"
                for (key, every), value in zip(axes, values, strict=True)
                if len(every) > 1
            ),
        ]
        flags += ["--output-dir", folder]
        runs.append(Run(", ".join(method), seed, flags, _words(fixed + chosen), cfg))
    return runs


def _config(flags: list[str], pairs: list[tuple[str, str]]) -> CfgNode:
    return build_cfg(make_parser("").parse_args([*flags, *_words(pairs)]))


def _words(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [word for pair in pairs for word in pair]


def _flag(flag: str, value: int | None) -> list[str]:
    return [] if value is None else [flag, str(value)]


def _folder(root: str, cfg: CfgNode, chosen: list[tuple[str, str]], usual: CfgNode) -> str:
    """The folder that train.py would choose, under `root` in the place of `output`, and behind
    its settings those of `--set` that are not the usual ones.

    It depends on the run alone: a study that is made larger finds the runs it has.
    """
    path = Path(root, *Path(cfg.OUTPUT_DIR).parts[1:])
    unusual = [
        key
        for key, _ in chosen
        if _short(key) not in IN_FOLDER and setting(cfg, key) != setting(usual, key)
    ]
    extra = "".join(f"_{_short(key).lower()}{setting(cfg, key)}" for key in unusual)
    extra = re.sub(r"[^\w.+-]+", "-", extra)
    if not learns(cfg.TRAINER.NAME):
        return path.with_name(path.name + extra).as_posix()
    return (path.parent.with_name(path.parent.name + extra) / path.name).as_posix()


def _short(key: str) -> str:
    """The key without the trainer's node, which a run's trainer says."""
    return key.split(".", 2)[2] if key.startswith("TRAINER.") else key
