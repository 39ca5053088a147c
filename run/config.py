"""Assemble the config of a run.

Later wins: defaults, the dataset's YAML, the trainer's YAML (or, with
--model-dir, the settings that run was made with), flags, KEY VALUE pairs.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from yacs.config import CfgNode

import trainers  # noqa: F401  (registers the trainers)
from clip.loading import input_settings
from dassl.config import get_cfg_default
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import nearest_name
from dassl.utils.errors import InputError
from datasets.config import add_dataset_cfg
from datasets.own import folder_name, use_id_folder, use_ood_folders
from ood.config import add_eval_cfg
from run.flags import (
    DATASET_CONFIGS,
    DEFAULT_CONFIGS,
    DEFAULT_DATASET,
    OWN_DATASET,
    TRAINER_CONFIGS,
    trainer_flags,
)
from run.folder import CONFIG, check_model_dir, read_config, read_yaml

HERE = Path(__file__).resolve().parents[1]

# Settings that name a run's folder, and what they are called there.
IN_FOLDER = {"N_CTX": "nctx", "CSC": "csc", "CLASS_TOKEN_POSITION": "ctp"}


def build_cfg(args: argparse.Namespace) -> CfgNode:
    """The frozen config of a run, from parsed flags.

    Raises:
        InputError: unknown keys or names, values of the wrong type, missing files.
    """
    cfg = default_cfg()
    run = read_config(args.model_dir) if args.model_dir else None
    dataset_file, trainer_file = _config_files(args, run)
    if run is not None:
        _merge(cfg, run, f"{args.model_dir}/{CONFIG}")
        _check_same_trainer(cfg, args)
    if dataset_file:
        cfg.OOD.SETS = CfgNode(new_allowed=True)
        _merge(cfg, _read_yaml(dataset_file), dataset_file)
    if trainer_file:
        _merge(cfg, _read_yaml(trainer_file), trainer_file)
    _merge_flags(cfg, args)
    _merge_pairs(cfg, args.opts)
    _check_empty(cfg)
    _check_ranges(cfg)
    cfg.RESUME = getattr(args, "resume", "")
    dataset = folder_name(args.id_data) if args.id_data else Path(dataset_file).stem
    default = default_output_dir if getattr(args, "trains", True) else untrained_output_dir
    cfg.OUTPUT_DIR = args.output_dir or args.model_dir or default(cfg, dataset, trainer_file)
    cfg.freeze()
    return cfg


def default_cfg() -> CfgNode:
    """Dassl's defaults, the datasets' keys and a node for every registered trainer."""
    cfg = get_cfg_default()
    add_dataset_cfg(cfg)
    add_eval_cfg(cfg)
    cfg.TRAIN.CHECKPOINT_FREQ = 1  # only the newest is kept; a stopped run goes on from it
    cfg.MODEL.BACKBONE.ACTIVATION = ""  # quick_gelu or gelu, for files that do not say
    for name in TRAINER_REGISTRY.registered_names():
        trainer = TRAINER_REGISTRY.get(name)
        if hasattr(trainer, "CONFIG"):
            cfg.TRAINER[trainer.CONFIG_KEY] = trainer.CONFIG.clone()
    return cfg


def default_output_dir(cfg: CfgNode, dataset: str, trainer_file: str) -> str:
    """LoCoOp's layout of run folders."""
    trainer = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    if not getattr(trainer, "LEARNS", True):
        return untrained_output_dir(cfg, dataset, trainer_file)
    folder = Path("output", dataset, cfg.TRAINER.NAME)
    settings = cfg.TRAINER.get(getattr(trainer, "CONFIG_KEY", ""), {})
    folder /= f"{Path(trainer_file).stem}_{cfg.DATASET.NUM_SHOTS}shots"
    if "N_CTX" in settings:
        folder /= "_".join(f"{name}{settings[key]}" for key, name in IN_FOLDER.items())
    return (folder / f"seed{cfg.SEED}").as_posix()


def untrained_output_dir(cfg: CfgNode, dataset: str, trainer_file: str) -> str:
    """Where a model is evaluated that no run has trained: never a run's own folder."""
    folder = Path("output", dataset, cfg.TRAINER.NAME, Path(trainer_file).stem)
    # A published CLIPN is one file among several; what CLIP a zero-shot model has, results say.
    weights = cfg.MODEL.INIT_WEIGHTS or cfg.MODEL.BACKBONE.NAME
    named = (
        getattr(TRAINER_REGISTRY.get(cfg.TRAINER.NAME), "LEARNS", True) and Path(weights).is_file()
    )
    return (folder / Path(weights).stem if named else folder).as_posix()


def _config_files(args: argparse.Namespace, run: dict | None) -> tuple[str, str]:
    """Paths of the dataset's and the trainer's YAML, "" where the run's settings stand for it."""
    if args.model_dir:
        check_model_dir(args.model_dir)
    dataset = args.dataset_config_file or (
        _named(DATASET_CONFIGS, args.dataset, "dataset") if args.dataset else ""
    )
    if run is not None:
        return dataset, ""
    trainer = TRAINER_REGISTRY.get(args.trainer).__name__ if args.trainer else ""
    if not trainer:
        raise InputError(
            "which method? Give --trainer, one of "
            f"{', '.join(TRAINER_REGISTRY.registered_names())}, or the --model-dir of a trained run"
        )
    dataset = dataset or _named(
        DATASET_CONFIGS, OWN_DATASET if args.id_data else DEFAULT_DATASET, "dataset"
    )
    if args.config_file:
        return dataset, args.config_file
    configs = TRAINER_CONFIGS / trainer
    names = [Path(dataset).stem, *DEFAULT_CONFIGS]
    usual = next((n for n in names if (HERE / configs / f"{n}.yaml").exists()), names[0])
    return dataset, _named(configs, args.config or usual, "config")


def _named(folder: Path, name: str, kind: str) -> str:
    path = folder / f"{name.removesuffix('.yaml')}.yaml"
    if not (HERE / path).exists():
        known = sorted(file.stem for file in (HERE / folder).glob("*.yaml"))
        raise InputError(
            f"unknown {kind} {name!r}: {folder} holds {', '.join(known) or 'nothing'}. "
            f"Nearest: {nearest_name(name, known)!r}"
        )
    return str(path)


def _read_yaml(path: str | Path, above: tuple[Path, ...] = ()) -> dict:
    """Settings of a YAML file, over those of the file it names as `_BASE_` (beside itself)."""
    # Names are looked up beside the code, so that the tools run from any folder.
    file = Path(path) if Path(path).exists() else HERE / path
    content = read_yaml(file)
    base = content.pop("_BASE_", None)
    if base is None:
        return content
    chain = (*above, file.resolve())
    if (file.parent / base).resolve() in chain:
        raise InputError(f"config file {path} is its own _BASE_: {' -> '.join(map(str, chain))}")
    return _over(_read_yaml(file.parent / base, chain), content)


def _over(base: dict, top: dict) -> dict:
    """`top` over `base`, node by node."""
    merged = base | top
    for key in base.keys() & top.keys():
        if isinstance(base[key], dict) and isinstance(top[key], dict):
            merged[key] = _over(base[key], top[key])
    return merged


def _merge(cfg: CfgNode, content: dict, source: str) -> None:
    try:
        cfg.merge_from_other_cfg(CfgNode(content))
    except KeyError as error:
        raise InputError(f"{source}: {_unknown_key(cfg, str(error.args[0]))}") from error
    except (ValueError, AssertionError, TypeError, AttributeError) as error:
        raise InputError(f"{source}: {error}") from error


def _merge_flags(cfg: CfgNode, args: argparse.Namespace) -> None:
    if args.trainer:
        cfg.TRAINER.NAME = TRAINER_REGISTRY.get(args.trainer).__name__
    cfg.SEED = args.seed if args.seed is not None else (cfg.SEED if args.model_dir else 1)
    cfg.DATASET.ROOT = os.path.expanduser(args.root or cfg.DATASET.ROOT or "data")
    _merge_own_data(cfg, args)
    if args.backbone:
        cfg.MODEL.BACKBONE.NAME = args.backbone
        # The YAML's belong to its own backbone.
        cfg.INPUT.update(input_settings(args.backbone))
    if args.shots is not None:
        cfg.DATASET.NUM_SHOTS = args.shots
    for flag, owners in trainer_flags().items():
        value = getattr(args, flag)
        if value is None:
            continue
        if cfg.TRAINER.NAME not in owners:
            raise InputError(
                f"--{flag} is a setting of {', '.join(owners)}; {cfg.TRAINER.NAME} has none of it"
            )
        node = TRAINER_REGISTRY.get(cfg.TRAINER.NAME).CONFIG_KEY
        _merge_pairs(cfg, [f"TRAINER.{node}.{owners[cfg.TRAINER.NAME]}", value])


def _merge_own_data(cfg: CfgNode, args: argparse.Namespace) -> None:
    if args.id_data:
        use_id_folder(cfg, args.id_data)
        if not (args.model_dir or args.dataset or args.dataset_config_file):
            cfg.OOD.SETS = CfgNode(new_allowed=True)
            # What paths in the results are relative to, wherever a command is started.
            cfg.DATASET.ROOT = args.root or os.path.dirname(cfg.DATASET.FOLDER)
    if args.ood_data:
        use_ood_folders(cfg, args.ood_data)


def in_pairs(words: list[str]) -> list[tuple[str, str]]:
    """The settings KEY VALUE KEY VALUE ... of a command line."""
    if len(words) % 2:
        raise InputError(f"settings come in pairs of KEY VALUE, got {' '.join(words)}")
    return list(zip(words[::2], words[1::2], strict=True))


def _merge_pairs(cfg: CfgNode, words: list[str]) -> None:
    for key, value in in_pairs(words):
        try:
            cfg.merge_from_list([key, _typed(cfg, key, value)])
        except (KeyError, AssertionError, AttributeError) as error:
            raise InputError(_unknown_key(cfg, key)) from error
        except (ValueError, SyntaxError) as error:
            why = _is_a_group(cfg, key) or str(error)
            raise InputError(f"{key} {value!r}: {why}") from error


def setting(cfg: CfgNode, key: str):
    """The value of the dotted `key`, None where there is none."""
    node = cfg
    for part in key.split("."):
        node = node.get(part) if isinstance(node, CfgNode) else None
    return node


def _typed(cfg: CfgNode, key: str, value: str):
    """`value` for a setting that is a number or a text; yacs reads the others.

    `LAMBDA 1` is as good as `LAMBDA 1.0`, and a folder may be called 2007.
    """
    node = setting(cfg, key)
    if isinstance(node, str):
        return repr(value)
    try:
        return float(value) if isinstance(node, float) else value
    except ValueError:
        return value


def _is_a_group(cfg: CfgNode, key: str) -> str:
    node = setting(cfg, key)
    if not isinstance(node, CfgNode):
        return ""
    return f"this is a group of settings, name one of them: {', '.join(f'{key}.{k}' for k in node)}"


def _check_same_trainer(cfg: CfgNode, args: argparse.Namespace) -> None:
    if args.trainer and TRAINER_REGISTRY.get(args.trainer).__name__ != cfg.TRAINER.NAME:
        raise InputError(
            f"{args.model_dir} is a run of {cfg.TRAINER.NAME}, asked was --trainer {args.trainer}: "
            "leave --trainer out, or name a run of that trainer"
        )


def _check_empty(cfg: CfgNode) -> None:
    """yacs takes nothing (`KEY:` in a YAML file) for any value; no setting of ours means it."""
    empty = [key for key in _keys(cfg) if setting(cfg, key) is None]
    if empty:
        raise InputError(f"{empty[0]} has no value: give it one, or leave the line out")


def _check_ranges(cfg: CfgNode) -> None:
    """Numbers that would fail deep inside torch or numpy, or train nothing, are refused here."""
    lowest = {
        "SEED": (cfg.SEED, -1),
        "OPTIM.LR": (cfg.OPTIM.LR, 0),
        "OPTIM.MAX_EPOCH": (cfg.OPTIM.MAX_EPOCH, 1),
        "DATALOADER.TRAIN_X.BATCH_SIZE": (cfg.DATALOADER.TRAIN_X.BATCH_SIZE, 1),
        "DATALOADER.TEST.BATCH_SIZE": (cfg.DATALOADER.TEST.BATCH_SIZE, 1),
        "DATALOADER.NUM_WORKERS": (cfg.DATALOADER.NUM_WORKERS, 0),
    }
    for key, (value, low) in lowest.items():
        if value < low:
            raise InputError(f"{key} is {value}, it must be at least {low}")
    if cfg.SEED >= 2**32:
        raise InputError(f"SEED is {cfg.SEED}, numpy's generator takes seeds below {2**32}")


def _unknown_key(cfg: CfgNode, key: str) -> str:
    key = key.removeprefix("Non-existent config key: ")
    known = list(_keys(cfg))
    return f"unknown setting {key}. Nearest: {nearest_name(key, known)}"


def _keys(node: CfgNode, prefix: str = ""):
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{key}.")
