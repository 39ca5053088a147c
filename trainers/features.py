"""Image features of lists of files from a trainer's frozen image tower, kept on disk."""

from collections.abc import Mapping, Sequence
from contextlib import closing

import numpy as np
import torch

from dassl import distributed
from dassl.data.datasets import Datum
from ood.evaluation import FeatureSource
from ood.features import feature_store
from trainers.base import ClipTrainer

Features = tuple[np.ndarray, np.ndarray]  # [n, D], labels [n]


def features_by_path(
    trainer: ClipTrainer, sets: Mapping[str, Sequence[Datum]], skip_bad: bool = False
) -> dict[str, np.ndarray]:
    """Return the normalised features `[D]` of every image by its path, from disk where kept.

    Args:
        skip_bad: leave out images that cannot be read, whatever DATALOADER.BAD_IMAGES says.
    """
    cfg, model, features = trainer.cfg.clone(), trainer.model.eval(), {}
    cfg.defrost()
    cfg.DATALOADER.BAD_IMAGES = "skip" if skip_bad else cfg.DATALOADER.BAD_IMAGES
    store = feature_store(cfg, trainer.image_encoding())
    source = FeatureSource(cfg, model, sets, set(), trainer.device, trainer.autocast, store)
    with torch.inference_mode():
        width = trainer.text_features().shape[-1]
        with closing(source.batches(trainer.dm.tfm_test, width)) as batches:
            for name, index, batch in batches:
                rows = batch.features.cpu().numpy()
                features |= {sets[name][i].impath: row for i, row in zip(index, rows, strict=True)}
    return {path: row for rank in distributed.from_all(features) for path, row in rank.items()}


def with_labels(features: Mapping[str, np.ndarray], items: Sequence[Datum]) -> Features:
    """Return the features, found by path, and the labels of those `items` that could be read."""
    items = [item for item in items if item.impath in features]
    return np.stack([features[x.impath] for x in items]), np.array([x.label for x in items])
