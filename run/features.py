"""Image features in a run: where they are kept, and those of any list of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from yacs.config import CfgNode

from dassl.data.data_manager import skips_bad_images
from dassl.data.datasets import Datum
from ood.evaluation import FeatureSource
from ood.features import FeatureStore
from trainers.base import ClipTrainer

Features = tuple[np.ndarray, np.ndarray]  # [n, D], labels [n]


def feature_store(cfg: CfgNode, trainer: ClipTrainer) -> FeatureStore | None:
    """Return where the features of the trainer's image tower are kept, None for nowhere."""
    if keeps_nothing(cfg):
        return None
    return FeatureStore(
        cfg.EVAL.FEATURES,
        trainer.image_encoding(),
        cfg.DATASET.ROOT,
        cfg.EVAL.FEATURES_LIMIT,
        cfg.EVAL.FEATURES_LOCAL,
        skips_bad_images(cfg),
    )


def keeps_nothing(cfg: CfgNode) -> bool:
    return cfg.EVAL.FEATURES.lower() in ("", "none")


def features_of(trainer: ClipTrainer, sets: dict[str, Sequence[Datum]]) -> dict[str, np.ndarray]:
    """Return the normalised feature `[D]` of every image by its path; kept ones are read."""
    model, found = trainer.model.eval(), {}
    store = feature_store(trainer.cfg, trainer)
    source = FeatureSource(trainer.cfg, model, sets, set(), trainer.device, trainer.autocast, store)
    with torch.inference_mode():
        width = trainer.text_features().shape[-1]
        for name, index, batch in source.batches(trainer.dm.tfm_test, width):
            rows = batch.features.cpu().numpy()
            found |= {sets[name][i].impath: row for i, row in zip(index, rows, strict=True)}
    return found


def of(found: dict[str, np.ndarray], items: Sequence[Datum]) -> Features:
    """Return features and labels of the images that could be read."""
    items = [item for item in items if item.impath in found]
    return np.stack([found[x.impath] for x in items]), np.array([x.label for x in items])
