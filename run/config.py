"""Assemble the config of a run.

Later sources override earlier ones: defaults (dassl/config/defaults.py and those of the trainers),
the data set's YAML, the trainer's YAML (or, with --model-dir, the config of that run), flags, KEY
VALUE pairs.
"""

import argparse
import logging
import os
import re
from pathlib import Path

from yacs.config import CfgNode

from clip.loading import check_same_backbone, input_settings
from dassl.config import clean_cfg
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import InputError, flatten
from dassl.utils.names import suggest
from datasets.folders import absolute
from datasets.imagenet import ImageNet
from datasets.own import folder_name, use_id_folder, use_ood_folders
from ood.words import BUNDLED
from run import flags, settings
from run.folder import CONFIG, check_evaluation, check_model_dir, read_config
from run.settings import ROOT, default_cfg, value_of

logger = logging.getLogger(__name__)

# Keys of DATASET: those that choose or name classes, and those that a run keeps on another set.
OF_CLASSES = ("CLASSES", "SUBSAMPLE_CLASSES", "CLASSNAMES_FILE")
OF_A_RUN = ("ROOT", "NUM_SHOTS", "PAIRS")
# Settings of a method that are part of its runs' folder names -> their prefix in these names.
IN_FOLDER = {"N_CTX": "nctx", "CSC": "csc", "CLASS_TOKEN_POSITION": "ctp"}


def build_cfg(args: argparse.Namespace) -> CfgNode:
    """Return the frozen config of a run from parsed flags.

    Raises:
        InputError: unknown keys or names, values of the wrong type, missing files.
    """
    cfg = default_cfg()
    if args.model_dir:
        check_model_dir(args.model_dir)
    run = read_config(args.model_dir)
    dataset_file, trainer_file = _config_files(args, run)
    if run is not None:
        settings.merge(cfg, run, f"{args.model_dir}/{CONFIG}")
        if args.trainer and TRAINER_REGISTRY.get(args.trainer).__name__ != cfg.TRAINER.NAME:
            raise InputError(
                f"{args.model_dir} is a run of {cfg.TRAINER.NAME}, not of {args.trainer}: leave "
                "--trainer out, or name another run"
            )
    cfg.OUTPUT_DIR = ""
    if dataset_file:
        _merge_dataset(cfg, dataset_file, run)
    if trainer_file:
        settings.merge(cfg, settings.read_config_file(trainer_file), trainer_file)
    cfg.TRAINER.NAME = TRAINER_REGISTRY.get(args.trainer or cfg.TRAINER.NAME).__name__
    if node := TRAINER_REGISTRY.get(cfg.TRAINER.NAME).CONFIG_KEY:
        clean_cfg(cfg, node)  # settings of other trainers would be accepted and ignored
    file_name = model_name(cfg)
    _merge_flags(cfg, args, run)
    _merge_settings(cfg, args.opts)
    if run is not None:
        check_evaluation(args.model_dir, run, cfg)
    settings.check_values(cfg, trained=run is not None)
    cfg.OUTPUT_DIR = args.output_dir or cfg.OUTPUT_DIR or args.model_dir
    if not cfg.OUTPUT_DIR:
        dataset = folder_name(args.id_data) if args.id_data else Path(dataset_file).stem
        config = Path(trainer_file).stem
        cfg.OUTPUT_DIR = default_folder(cfg, dataset, config, file_name, args.trains)
    cfg.freeze()
    return cfg


def _merge_dataset(cfg: CfgNode, file: str, run: dict | None) -> None:
    """Merge a data set's YAML; a trained `run` keeps its INPUT (and see `_leave_data_set`)."""
    cfg.OOD = default_cfg().OOD
    content = settings.read_config_file(file)
    if run is not None:
        content.pop("INPUT", None)
        _leave_data_set(cfg, content.get("DATASET", {}), file)
    settings.merge(cfg, content, file)


def _leave_data_set(cfg: CfgNode, dataset: dict, source: str) -> bool:
    """Reset DATASET if the `dataset` of `source` is another one, and return whether it is.

    `OF_A_RUN` stays. A choice of classes, or their names, that `dataset` lacks stays among ImageNet
    and its variants; a warning says whether it does.
    """
    current, defaults = cfg.DATASET, default_cfg().DATASET
    same = all(current[key] == dataset.get(key, current[key]) for key in ("NAME", "FOLDER"))
    names = current.NAME, dataset.get("NAME", current.NAME)
    same_classes = same or all(issubclass(DATASET_REGISTRY.get(x), ImageNet) for x in names)
    chosen = [key for key in OF_CLASSES if current[key] != defaults[key] and key not in dataset]
    for key in chosen:
        what = "is kept" if same_classes else f"is not used, as {source} is another data set"
        logger.warning("DATASET.%s %s: %s", key, what, current[key])
    if not same:
        kept = (*OF_A_RUN, *chosen) if same_classes else OF_A_RUN
        cfg.DATASET = defaults
        cfg.DATASET.update({key: current[key] for key in kept})
        if cfg.EVAL.NEGATIVES != BUNDLED:
            cfg.EVAL.NEGATIVES = ""  # words of the run's data set
    return not same


def _config_files(args: argparse.Namespace, run: dict | None) -> tuple[str, str]:
    """Return the paths of the data set's and the trainer's YAML; "" where `run` replaces it."""
    default = flags.OWN_DATASET if args.id_data else flags.DEFAULT_DATASET
    named = args.dataset or args.dataset_config_file or args.id_data
    if args.model_dir and run is None and not named:
        raise InputError(
            f"{args.model_dir} has no {CONFIG} that says which data set its classes are: add "
            "--dataset NAME, --dataset-config-file FILE or --id-data FOLDER"
        )
    name = args.dataset or (default if run is None else "")
    dataset = args.dataset_config_file or (name and _find(flags.DATASET_CONFIGS, name, "dataset"))
    if run is not None:
        return dataset, ""
    if not args.trainer:
        raise InputError(
            "no method is named: give --trainer, one of "
            f"{', '.join(TRAINER_REGISTRY.registered_names())}, or the --model-dir of a trained run"
        )
    if args.config_file:
        return dataset, args.config_file
    configs = flags.TRAINER_CONFIGS / TRAINER_REGISTRY.get(args.trainer).__name__
    names = [*(file.stem for file in settings.config_files(dataset)), *flags.DEFAULT_CONFIGS]
    default = next((n for n in names if (ROOT / configs / f"{n}.yaml").exists()), "")
    if not (args.config or default):
        known = ", ".join(sorted(file.stem for file in (ROOT / configs).glob("*.yaml"))) or "none"
        raise InputError(
            f"{configs} has no config for {names[0]}: name one with --config (there: {known}) or "
            "--config-file"
        )
    return dataset, _find(configs, args.config or default, "config")


def _find(folder: Path, name: str, kind: str) -> str:
    path = folder / f"{name.removesuffix('.yaml')}.yaml"
    if not (ROOT / path).exists():
        known = sorted(file.stem for file in (ROOT / folder).glob("*.yaml"))
        raise InputError(f"unknown {kind} {name!r} in {folder}. {suggest(name, known)}")
    return str(path)


def _merge_flags(cfg: CfgNode, args: argparse.Namespace, run: dict | None) -> None:
    if args.seed is not None:
        cfg.SEED = args.seed
    if args.shots is not None:
        cfg.DATASET.NUM_SHOTS = args.shots
    cfg.RESUME = args.resume
    cfg.DATASET.ROOT = os.path.expanduser(args.root or cfg.DATASET.ROOT)
    _merge_own_data(cfg, args, run)
    if args.backbone and (trained := flatten(run or {}).get("MODEL.BACKBONE.NAME")):
        check_same_backbone(args.backbone, trained)
    cfg.MODEL.BACKBONE.NAME = args.backbone or cfg.MODEL.BACKBONE.NAME
    backbone = args.backbone or dict(args.opts).get("MODEL.BACKBONE.NAME")
    if backbone and run is None:
        # INPUT in a YAML is that of the YAML's backbone. A trained run keeps its own INPUT.
        cfg.INPUT.update(input_settings(backbone))
    for flag, owners in flags.trainer_flags().items():
        if (value := getattr(args, flag)) is None:
            continue
        if cfg.TRAINER.NAME not in owners:
            raise InputError(
                f"--{flag} is a setting of {', '.join(owners)}, not of {cfg.TRAINER.NAME}: "
                "leave it out"
            )
        node = TRAINER_REGISTRY.get(cfg.TRAINER.NAME).CONFIG_KEY
        settings.set_value(cfg, f"TRAINER.{node}.{owners[cfg.TRAINER.NAME]}", value)


def _merge_own_data(cfg: CfgNode, args: argparse.Namespace, run: dict | None) -> None:
    if args.id_data:
        if run is not None:
            folder = absolute(os.path.expanduser(args.id_data))
            file = _find(flags.DATASET_CONFIGS, flags.OWN_DATASET, "dataset")
            own = settings.read_config_file(file)["DATASET"] | {"FOLDER": folder}
            if _leave_data_set(cfg, own, "--id-data"):
                cfg.DATASET.update(own)
        use_id_folder(cfg, args.id_data)
        if not (args.model_dir or args.dataset or args.dataset_config_file):
            cfg.OOD = default_cfg().OOD
            # Paths in the results are relative to it; the working directory must not change them.
            cfg.DATASET.ROOT = args.root or os.path.dirname(cfg.DATASET.FOLDER)
    if args.ood_data:
        use_ood_folders(cfg, args.ood_data)


def _merge_settings(cfg: CfgNode, pairs: list[tuple[str, str]]) -> None:
    for key, value in pairs:
        if key == "TRAINER.NAME":
            raise InputError(f"TRAINER.NAME {value}: name the method with --trainer {value}")
        if value_of(cfg, key) is None and value_of(default_cfg(), key) is not None:
            node, names = key.split(".")[1], TRAINER_REGISTRY.registered_names()
            owner = next(n for n in names if node == TRAINER_REGISTRY.get(n).CONFIG_KEY)
            raise InputError(f"{key} is a setting of {owner}, not {cfg.TRAINER.NAME}")
        settings.set_value(cfg, key, value)


def default_folder(cfg: CfgNode, dataset: str, config: str, file_name: str, trains: bool) -> str:
    """Return the default folder of a run, in LoCoOp's layout.

    The folder is named after the config file `config`, unless flags changed the backbone or the
    number of epochs or views: then after these. `file_name` is the `model_name` before flags.
    Results of a model that no run has trained never go into the folder of a run.
    """
    trainer_class, name = TRAINER_REGISTRY.get(cfg.TRAINER.NAME), model_name(cfg)
    name = config if name == file_name else name
    folder = Path("output", dataset, cfg.TRAINER.NAME)
    if not trainer_class.LEARNS:
        folder /= name
    elif not trains:
        # Several published files of CLIPN have the same config.
        weights = Path(cfg.MODEL.INIT_WEIGHTS or cfg.MODEL.BACKBONE.NAME)
        folder = folder / config / (weights.stem if weights.is_file() else "")
    else:
        node = cfg.TRAINER.get(trainer_class.CONFIG_KEY, {})
        context = "_".join(f"{prefix}{node[k]}" for k, prefix in IN_FOLDER.items() if k in node)
        folder = folder / f"{name}_{cfg.DATASET.NUM_SHOTS}shots" / context / f"seed{cfg.SEED}"
    return folder.as_posix()


def model_name(cfg: CfgNode) -> str:
    """Return backbone, pairs, epochs and views, where they apply, such as vit_b16_ep50."""
    trainer_class, pairs = TRAINER_REGISTRY.get(cfg.TRAINER.NAME), cfg.DATASET.PAIRS
    parts = [_slug(cfg.MODEL.BACKBONE.NAME)]
    if trainer_class.READS_PAIRS:  # cc3m for cc3m/{00000..00331}.tar
        path = Path(re.split(r"[{*]", pairs.PATH)[0]).stem
        parts.append(pairs.SOURCE if pairs.SOURCE == "classnames" else _slug(path))
    if trainer_class.LEARNS:
        parts.append(f"ep{cfg.OPTIM.MAX_EPOCH}")
        parts.append(f"views{cfg.DATALOADER.VIEWS}" if cfg.DATALOADER.VIEWS else "")
    return "_".join(filter(None, parts))


def _slug(backbone: str) -> str:
    """Return a backbone as config files name it: vit_b16 for ViT-B/16; for a file, its stem."""
    name = Path(backbone).stem if Path(backbone).exists() else re.sub(r"/(?=\d)", "", backbone)
    return re.sub(r"[^\w.+]+", "_", name).lower()
