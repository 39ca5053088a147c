"""Configuration: a yacs tree with upstream's keys and defaults."""

from yacs.config import CfgNode

from .defaults import DEFAULTS


def get_cfg_default() -> CfgNode:
    """Return a fresh copy of the default configuration."""
    cfg = CfgNode(DEFAULTS).clone()
    for sets in (cfg.OOD.SETS, cfg.OOD.SHIFTED, cfg.OOD.ID):
        sets.set_new_allowed(True)
    return cfg


def clean_cfg(cfg: CfgNode, trainer: str) -> None:
    """Remove the TRAINER nodes of all trainers but `trainer` from `cfg`, in place."""
    for key in list(cfg.TRAINER):
        if key not in ("NAME", trainer.upper()):
            cfg.TRAINER.pop(key)
