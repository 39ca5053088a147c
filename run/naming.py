"""Name the folder of a run after what was run: data set, method, model, epochs, shots and seed."""

from __future__ import annotations

import re
from pathlib import Path

from yacs.config import CfgNode

from dassl.engine import TRAINER_REGISTRY

# Settings of a method that its folders are named after, and what they are called there.
IN_FOLDER = {"N_CTX": "nctx", "CSC": "csc", "CLASS_TOKEN_POSITION": "ctp"}


def usual_folder(cfg: CfgNode, dataset: str, config: str, promised: str, trains: bool) -> str:
    """Return the folder of a run, in LoCoOp's layout.

    It is called after the config file `config` as long as the run is what that file says, of which
    `promised` is the `model_name`; with another backbone, number of epochs or of views it is called
    after these. Results of a model that no run has trained never go to a run's folder.
    """
    kind, name = TRAINER_REGISTRY.get(cfg.TRAINER.NAME), model_name(cfg)
    name = config if name == promised else name
    folder = Path("output", dataset, cfg.TRAINER.NAME)
    if not kind.LEARNS:
        folder /= name
    elif not trains:
        # A published CLIPN is one file among several of the same config.
        weights = Path(cfg.MODEL.INIT_WEIGHTS or cfg.MODEL.BACKBONE.NAME)
        folder = folder / config / (weights.stem if weights.is_file() else "")
    else:
        own = cfg.TRAINER.get(kind.CONFIG_KEY, {})
        context = "_".join(f"{name}{own[key]}" for key, name in IN_FOLDER.items() if key in own)
        folder = folder / f"{name}_{cfg.DATASET.NUM_SHOTS}shots" / context / f"seed{cfg.SEED}"
    return folder.as_posix()


def model_name(cfg: CfgNode) -> str:
    """Return model, pairs, epochs and views, as far as the method has them, in the way of config
    files: vit_b16_ep50."""
    kind, pairs = TRAINER_REGISTRY.get(cfg.TRAINER.NAME), cfg.DATASET.PAIRS
    parts = [_slug(cfg.MODEL.BACKBONE.NAME)]
    if kind.READS_PAIRS:  # cc3m for cc3m/{00000..00331}.tar
        path = Path(re.split(r"[{*]", pairs.PATH)[0]).stem
        parts.append(pairs.SOURCE if pairs.SOURCE == "classnames" else _slug(path))
    if kind.LEARNS:
        parts.append(f"ep{cfg.OPTIM.MAX_EPOCH}")
        parts.append(f"views{cfg.DATALOADER.VIEWS}" if cfg.DATALOADER.VIEWS else "")
    return "_".join(filter(None, parts))


def _slug(backbone: str) -> str:
    """Return a backbone as config files name it: ViT-B/16 is vit_b16; a file is its own name."""
    name = Path(backbone).stem if Path(backbone).exists() else re.sub(r"/(?=\d)", "", backbone)
    return re.sub(r"[^\w.+]+", "_", name).lower()
