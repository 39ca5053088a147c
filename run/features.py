"""Image features in a run: where they are kept, those of a list, and the scores fitted to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from yacs.config import CfgNode

from dassl import distributed
from dassl.data.data_manager import skips_bad_images
from dassl.data.datasets import Datum
from datasets.needs import NOTHING, Needs
from ood.evaluation import FeatureSource
from ood.features import FeatureStore
from ood.library import LibraryScore
from ood.registry import Score
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
    return {path: row for rank in distributed.from_all(found) for path, row in rank.items()}


def of(found: dict[str, np.ndarray], items: Sequence[Datum]) -> Features:
    """Return features and labels of the images that could be read."""
    items = [item for item in items if item.impath in found]
    return np.stack([found[x.impath] for x in items]), np.array([x.label for x in items])


def data_needs(scores: Sequence[Score]) -> Needs:
    """Return the training images if some score is fitted to them."""
    fits = any(isinstance(s, LibraryScore) and s.kind.requires_fit for s in scores)
    return Needs.TRAIN if fits else NOTHING


def fit_scores(trainer: ClipTrainer, scores: Sequence[Score]) -> list[Score]:
    """Return `scores`, those of pytorch-ood fitted: to the run's own training images (its shots,
    drawn by its seed; without shots all), prepared as test images are."""
    library, train = [s for s in scores if isinstance(s, LibraryScore)], None
    if data_needs(library):
        items = trainer.dm.dataset.train_x
        found = of(features_of(trainer, {"train": items}), items)
        train = tuple(torch.from_numpy(x).to(trainer.device) for x in found)
    facts = (trainer.text_features().clone(), trainer.model.scale.detach().float(), train)
    fitted = {s.name: s.fitted(*facts) for s in library}
    return [fitted.get(s.name, s) for s in scores]
