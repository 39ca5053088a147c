"""Image features in a run, and the scores fitted to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dassl.data.datasets import Datum
from datasets.needs import NOTHING, Needs
from ood.library import LibraryScore
from ood.registry import Score
from trainers.base import ClipTrainer
from trainers.features import features_of

Features = tuple[np.ndarray, np.ndarray]  # [n, D], labels [n]


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
