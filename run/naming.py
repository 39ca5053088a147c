"""Name the folder of a run after what was run: data set, method, model, epochs, shots and seed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from yacs.config import CfgNode

from dassl.engine import TRAINER_REGISTRY

# Settings of a method that its folders are named after, and what they are called there.
IN_FOLDER = {"N_CTX": "nctx", "CSC": "csc", "CLASS_TOKEN_POSITION": "ctp"}


@dataclass(frozen=True)
class Facts:
    """What the name of a config file, such as vit_b16_ep50, promises of a run."""

    backbone: str
    pairs: str
    epochs: int

    @classmethod
    def of(cls, cfg: CfgNode) -> Facts:
        """Return the facts of `cfg` that its method depends on."""
        kind = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
        pairs, epochs = _pairs(cfg.DATASET.PAIRS), cfg.OPTIM.MAX_EPOCH
        return cls(
            cfg.MODEL.BACKBONE.NAME, pairs if kind.READS_PAIRS else "", epochs if kind.LEARNS else 0
        )

    def name(self) -> str:
        """Return them as a config file is named: vit_b16_ep50."""
        parts = [_slug(self.backbone), self.pairs, f"ep{self.epochs}" if self.epochs else ""]
        return "_".join(part for part in parts if part)


def trained_folder(cfg: CfgNode, dataset: str, config: str, promised: Facts) -> str:
    """Return the folder of a training run, in LoCoOp's layout.

    It is called after the file `config` as long as the run is what that file says (`promised`);
    with another backbone or number of epochs it is called after these.
    """
    kind, now = TRAINER_REGISTRY.get(cfg.TRAINER.NAME), Facts.of(cfg)
    if not kind.LEARNS:
        return untrained_folder(cfg, dataset, config, promised)
    name = config if now == promised else now.name()
    folder = Path("output", dataset, cfg.TRAINER.NAME, f"{name}_{cfg.DATASET.NUM_SHOTS}shots")
    settings = cfg.TRAINER.get(kind.CONFIG_KEY, {})
    if "N_CTX" in settings:
        folder /= "_".join(f"{name}{settings[key]}" for key, name in IN_FOLDER.items())
    return (folder / f"seed{cfg.SEED}").as_posix()


def untrained_folder(cfg: CfgNode, dataset: str, config: str, promised: Facts) -> str:
    """Return the folder for results of a model that no run has trained: never a run's folder."""
    folder = Path("output", dataset, cfg.TRAINER.NAME)
    weights = cfg.MODEL.INIT_WEIGHTS or cfg.MODEL.BACKBONE.NAME
    if TRAINER_REGISTRY.get(cfg.TRAINER.NAME).LEARNS:
        # A published CLIPN is one file among several of the same config.
        return (
            folder / config / (Path(weights).stem if Path(weights).is_file() else "")
        ).as_posix()
    name = config if Facts.of(cfg) == promised else _slug(cfg.MODEL.BACKBONE.NAME)
    return (folder / name).as_posix()


def _slug(backbone: str) -> str:
    """Return a backbone as config files name it: ViT-B/16 is vit_b16; a file is its own name."""
    name = Path(backbone).stem if Path(backbone).exists() else re.sub(r"/(?=\d)", "", backbone)
    return re.sub(r"[^\w.+]+", "_", name).lower()


def _pairs(pairs: CfgNode) -> str:
    """Return a word for where image-caption pairs come from: cc3m for cc3m/{00000..00331}.tar."""
    if pairs.SOURCE == "classnames":
        return pairs.SOURCE
    return _slug(Path(re.split(r"[{*]", pairs.PATH)[0]).stem)
