"""Settings: defaults, merging of YAML files and command-line pairs, and checks of values."""

from collections.abc import Iterator
from math import inf, isfinite
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

import trainers  # noqa: F401  (registers the trainers)
from dassl.config import check_ranges, get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.data.samplers import SAMPLERS
from dassl.data.transforms.transforms import build_preprocess
from dassl.engine import TRAINER_REGISTRY
from dassl.evaluation import EVALUATOR_REGISTRY
from dassl.optim.lr_scheduler import SCHEDULERS, WARMUPS
from dassl.optim.optimizer import OPTIMIZERS
from dassl.utils import InputError, check_availability, flatten
from dassl.utils.files import read_text
from dassl.utils.names import suggest
from datasets.classfolders import ClassFolders
from datasets.fewshot import check_shots
from datasets.ood_sets import check_sets
from ood.metrics import OPENOOD, PRIMARY
from trainers.base import ClipTrainer

ROOT = Path(__file__).resolve().parents[1]  # of the repository

RANGES = {  # key -> its smallest and its largest value
    "SEED": (-1, 2**32 - 1),  # numpy's generator takes no larger ones
    "DATASET.NUM_SHOTS": (-1, inf),
    "DATASET.PAIRS.NUM_PAIRS": (0, inf),
    "OPTIM.LR": (0, inf),
    "OPTIM.WEIGHT_DECAY": (0, inf),
    "OPTIM.MOMENTUM": (0, 1),
    "OPTIM.SGD_DAMPNING": (0, 1),
    "OPTIM.ADAM_BETA1": (0, 0.999999),  # torch takes numbers below 1
    "OPTIM.ADAM_BETA2": (0, 0.999999),
    "OPTIM.GAMMA": (0, inf),
    "OPTIM.MAX_EPOCH": (1, inf),
    "OPTIM.WARMUP_CONS_LR": (0, inf),
    "OPTIM.WARMUP_MIN_LR": (0, inf),
    "INPUT.ROTATION": (0, 180),
    "INPUT.COLORJITTER_B": (0, inf),
    "INPUT.COLORJITTER_C": (0, inf),
    "INPUT.COLORJITTER_S": (0, inf),
    "INPUT.COLORJITTER_H": (0, 0.5),
    "INPUT.RGS_P": (0, 1),
    "DATALOADER.TRAIN_X.BATCH_SIZE": (1, inf),
    "DATALOADER.TEST.BATCH_SIZE": (1, inf),
    "DATALOADER.NUM_WORKERS": (0, 1024),
    "DATALOADER.VIEWS": (0, inf),
    "EVAL.LOCAL_WEIGHT": (0, inf),
    "EVAL.FEATURES_LIMIT": (0, inf),
}
CHOICES = {  # key -> the names it may have
    "TEST.SPLIT": ("val", "test"),
    "TEST.FINAL_MODEL": ("last_step", "best_val"),
    "OOD.FPR95": (PRIMARY, OPENOOD),
    "OPTIM.NAME": OPTIMIZERS,
    "OPTIM.LR_SCHEDULER": SCHEDULERS,
    "OPTIM.WARMUP_TYPE": WARMUPS,
    "DATALOADER.TRAIN_X.SAMPLER": SAMPLERS,
    "DATALOADER.TEST.SAMPLER": SAMPLERS,
}


def default_cfg() -> CfgNode:
    """Return the default config, with a node for every registered trainer."""
    cfg = get_cfg_default()
    for name in TRAINER_REGISTRY.registered_names():
        trainer = TRAINER_REGISTRY.get(name)
        if trainer.CONFIG_KEY:
            cfg.TRAINER[trainer.CONFIG_KEY] = trainer.CONFIG.clone()
    return cfg


def keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all settings and groups of settings."""
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from keys(value, f"{prefix}{key}.")


def value_of(cfg: CfgNode, key: str) -> Any:
    """Return the value of the dotted `key`, or None if there is no such setting."""
    node = cfg
    for part in key.split("."):
        node = node.get(part) if isinstance(node, CfgNode) else None
    return node


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, of which PyYAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise yaml.YAMLError(f"{name} is given twice, in lines {lines[name]} and {line}")
            lines[name] = line
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> dict:
    """Return the settings in a YAML file.

    Raises:
        InputError: it cannot be read, is not YAML, or holds something other than settings.
    """
    try:
        content = yaml.load(read_text(Path(path), "The config file"), _Loader)
    except yaml.YAMLError as error:
        raise InputError(f"config file {path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"config file {path} holds no settings (KEY: value lines)")
    return content


def read_config_file(path: str | Path) -> dict:
    """Return the settings of a YAML file, which override those of its `_BASE_`."""
    merged: dict = {}
    for content in config_files(path).values():
        merged = _update(content, merged)
    return merged


def config_files(path: str | Path) -> dict[Path, dict]:
    """Return the content of a YAML file, of its `_BASE_` beside it, and so on, by file."""
    # The repository is searched too, so that commands run from any working directory.
    file = Path(path) if Path(path).exists() else ROOT / path
    contents: dict[Path, dict] = {}
    while file.resolve() not in contents:
        content = contents[file.resolve()] = read_yaml(file)
        base = content.pop("_BASE_", None)
        if base is None:
            return contents
        if not isinstance(base, str):
            raise InputError(f"config file {file}: _BASE_ is {base!r}, not the name of a file")
        file = file.parent / base
    raise InputError(
        f"config file {path} is its own _BASE_: leave that line out, or name another file"
    )


def _update(base: dict, top: dict) -> dict:
    """Return `base` updated with `top`, node by node."""
    merged = base | top
    for key in base.keys() & top.keys():
        if isinstance(base[key], dict) and isinstance(top[key], dict):
            merged[key] = _update(base[key], top[key])
    return merged


def merge(cfg: CfgNode, content: dict, source: str) -> None:
    """Set the settings in `content`; error messages name its `source`."""
    _refuse_unfit(content, f"{source}: ")
    try:
        cfg.merge_from_other_cfg(CfgNode(content))
    except KeyError as error:
        raise InputError(f"{source}: {_unknown_key(cfg, str(error.args[0]))}") from error
    except (ValueError, AssertionError, TypeError, AttributeError) as error:
        mismatch, _, key = str(error).partition(" for config key: ")
        reason = f"{key}: {_expected(value_of(cfg, key))}" if key else mismatch
        raise InputError(f"{source}: {reason}") from error


def _refuse_unfit(content: dict, where: str = "") -> None:
    """Raise InputError for a setting without a value, such as `KEY:` in a YAML file, and for a name
    that is no text, such as `5: {...}`."""
    for key, value in content.items():
        if not isinstance(key, str):
            raise InputError(f"{where}{key} is not read as text: put the name in quotes")
        if value is None:
            raise InputError(f"{where}{key} has no value: give it one, or leave the line out")
        if isinstance(value, dict):
            _refuse_unfit(value, f"{where}{key}.")


def set_value(cfg: CfgNode, key: str, value: str) -> None:
    """Set `key` to `value`, as typed on a command line."""
    try:
        cfg.merge_from_list([key, _typed(value_of(cfg, key), value)])
    except (KeyError, AssertionError, AttributeError) as error:
        raise InputError(_unknown_key(cfg, key)) from error
    except (ValueError, SyntaxError) as error:
        mismatch = str(error).startswith("Type mismatch")
        reason = _expected(value_of(cfg, key)) if mismatch else error
        raise InputError(f"{key} {value!r}: {reason}") from error


def _expected(current: Any) -> str:
    """Return what to give in place of a value whose type is not that of the `current` one."""
    if isinstance(current, CfgNode):
        return f"this is a group of settings, name one of {', '.join(current)} in it"
    return f"give a value of the type of {current!r}"


def _typed(current: Any, value: str) -> Any:
    """Return `value` as the float or string that the setting has now; yacs parses other types.

    `LAMBDA 1` is as good as `LAMBDA 1.0`, and a folder may be called 2007.
    """
    if isinstance(current, str):
        return repr(value)
    try:
        return float(value) if isinstance(current, float) else value
    except ValueError:
        return value


def _unknown_key(cfg: CfgNode, key: str) -> str:
    key = key.removeprefix("Non-existent config key: ")
    return f"unknown setting {key}. {suggest(key, keys(cfg))}"


def check_values(cfg: CfgNode, trained: bool = False) -> None:
    """Raise InputError for values that would fail deep inside torch or numpy, or train nothing.

    These are settings without a value, numbers that are not finite or out of range, shots that
    cannot be drawn, and malformed entries of OOD sets. `trained`: `cfg` is of an existing run.
    """
    values = flatten(cfg)
    _refuse_unfit(values)
    for key, value in values.items():
        numbers = value if isinstance(value, list | tuple) else [value]
        if not all(isfinite(part) for part in numbers if isinstance(part, float)):
            raise InputError(f"{key} is {value}, it must be a finite number")
    check_ranges(cfg, RANGES)
    for key, names in CHOICES.items():
        check_availability(values[key], names, what=key)
    check_availability(cfg.TEST.EVALUATOR, EVALUATOR_REGISTRY.registered_names(), "TEST.EVALUATOR")
    _check_tuples(cfg)
    _check_combinations(cfg, trained)
    check_sets(cfg)
    trainer_class = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    if trainer_class.LEARNS and not trainer_class.READS_PAIRS:
        check_shots(cfg.DATASET.NUM_SHOTS, cfg.SEED)
    if cfg.DATALOADER.VIEWS and trainer_class.LEARNS and not trainer_class.KEEPS_VIEWS:
        raise InputError(
            f"DATALOADER.VIEWS is {cfg.DATALOADER.VIEWS}: it keeps the features of a frozen image "
            f"tower, but {cfg.TRAINER.NAME} trains on the images themselves; set it to 0"
        )
    build_preprocess(cfg, normalize=True)  # raises InputError for an impossible INPUT


def _check_tuples(cfg: CfgNode) -> None:
    scale, steps = tuple(cfg.INPUT.RRCROP_SCALE), cfg.OPTIM.STEPSIZE
    numbers = len(scale) == 2 and all(isinstance(share, int | float) for share in scale)
    if not (numbers and 0 < scale[0] <= scale[1] <= 1):
        raise InputError(
            f"INPUT.RRCROP_SCALE is {scale}, it must hold the smallest and the largest share of an "
            "image's area, above 0 and at most 1, such as (0.08, 1.0)"
        )
    if not steps or not all(isinstance(step, int) for step in steps):
        raise InputError(f"OPTIM.STEPSIZE is {steps}, it must hold whole epochs, such as (-1,)")


def _check_combinations(cfg: CfgNode, trained: bool) -> None:
    optim, dataset = cfg.OPTIM, cfg.DATASET
    if optim.SGD_NESTEROV and (optim.MOMENTUM == 0 or optim.SGD_DAMPNING != 0):
        raise InputError(
            f"OPTIM.SGD_NESTEROV needs a MOMENTUM above 0 and SGD_DAMPNING 0, not {optim.MOMENTUM} "
            f"and {optim.SGD_DAMPNING}"
        )
    if optim.WARMUP_EPOCH > optim.MAX_EPOCH and not trained:
        raise InputError(
            f"OPTIM.WARMUP_EPOCH is {optim.WARMUP_EPOCH}, it must be at most the {optim.MAX_EPOCH} "
            "epochs of OPTIM.MAX_EPOCH; 0 trains without a warm-up"
        )
    unread = [f"DATASET.{key}" for key in ("SPLIT_FILE", "IMAGES") if dataset[key]]
    if unread and issubclass(DATASET_REGISTRY.get(dataset.NAME), ClassFolders):
        raise InputError(
            f"{' and '.join(unread)} would be ignored: {dataset.NAME} reads class folders. Leave "
            "them out, or set DATASET.NAME to ImageList or ImageNetList"
        )


def require_clip_trainer(cfg: CfgNode) -> None:
    """Raise InputError for a trainer without CLIP's features, such as one written for Dassl."""
    if not issubclass(TRAINER_REGISTRY.get(cfg.TRAINER.NAME), ClipTrainer):
        raise InputError(
            f"{cfg.TRAINER.NAME} is no ClipTrainer: it can be trained and tested, but its images "
            "cannot be scored. Derive it from PromptTrainer or ClipTrainer "
            "(docs/methods.md#add-one); sweep.sh --no-eval trains it without scoring"
        )


def describe(cfg: CfgNode) -> str:
    """Return the settings of the method, and all others that differ from defaults, as lines."""
    defaults, groups = flatten(default_cfg()), {}
    node = f"TRAINER.{TRAINER_REGISTRY.get(cfg.TRAINER.NAME).CONFIG_KEY}."
    for key, value in flatten(cfg).items():
        group, _, name = key.rpartition(".") if key.startswith(node) else key.partition(".")
        if (key.startswith(node) or defaults.get(key) != value) and group != "OOD":
            groups.setdefault(group, []).append(f"{name} {value}".strip())
    return "\n".join(f"  {group}: {', '.join(values)}" for group, values in groups.items())
