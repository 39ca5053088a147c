"""Configuration: a yacs tree with upstream's keys and defaults."""

from collections.abc import Mapping
from math import inf
from typing import Any

from yacs.config import CfgNode

from dassl.utils import InputError, flatten

from .defaults import DEFAULTS, REMOVED


def get_cfg_default() -> CfgNode:
    """Return a fresh copy of the default configuration."""
    cfg = CfgNode(DEFAULTS).clone()
    for sets in (cfg.OOD.SETS, cfg.OOD.SHIFTED, cfg.OOD.ID):
        sets.set_new_allowed(True)
    for key in REMOVED:
        cfg.register_deprecated_key(key)
    return cfg


def clean_cfg(cfg: CfgNode, trainer: str) -> None:
    """Remove the TRAINER nodes of all trainers but `trainer` from `cfg`, in place."""
    for key in list(cfg.TRAINER):
        if key not in ("NAME", trainer.upper()):
            cfg.TRAINER.pop(key)


def check_ranges(cfg: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raise InputError for a setting that is below its smallest value or above its largest."""
    values = flatten(cfg)
    for key, (low, high) in ranges.items():
        if not low <= values[key] <= high:
            allowed = f"be at least {low}" if high == inf else f"lie between {low} and {high}"
            raise InputError(f"{key} is {values[key]}, it must {allowed}")
