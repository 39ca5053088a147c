"""Configuration: a yacs tree with upstream's keys and defaults."""

from __future__ import annotations

from yacs.config import CfgNode

from .defaults import DEFAULTS

__all__ = ["clean_cfg", "get_cfg_default"]


def get_cfg_default() -> CfgNode:
    """A fresh copy of the default configuration (Dassl 0.6.3, and what is marked as ours)."""
    return CfgNode(DEFAULTS).clone()


def clean_cfg(cfg: CfgNode, trainer: str) -> None:
    """Remove the TRAINER nodes of all trainers but `trainer` from `cfg`, in place."""
    for key in list(cfg.TRAINER):
        if key not in ("NAME", trainer.upper()):
            cfg.TRAINER.pop(key)
