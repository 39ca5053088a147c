"""What a run reads of the data, by its trainer: ID images, caption pairs, class names alone."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from dassl.utils.errors import InputError
from datasets.classfolders import ClassFolders


def reads_pairs(cfg) -> bool:
    """Whether the trainer learns from DATASET.PAIRS (it says so: READS_PAIRS)."""
    known = cfg.TRAINER.NAME in TRAINER_REGISTRY
    return known and getattr(TRAINER_REGISTRY.get(cfg.TRAINER.NAME), "READS_PAIRS", False)


def trains_elsewhere(cfg) -> bool:
    """Whether it learns from pairs that are not the ID set's own training images."""
    return reads_pairs(cfg) and cfg.DATASET.PAIRS.SOURCE != "classnames"


def names_known(cfg) -> bool:
    """Whether the ID set may be built without images: build_trainer(cfg, images=False)."""
    kind = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    return issubclass(kind, ClassFolders) and kind.knows_classes(cfg)


def trains_on_names(cfg) -> bool:
    """Whether its training needs no more of the ID set than class names, and these are known."""
    return trains_elsewhere(cfg) and names_known(cfg)


def missing_images(cfg) -> str:
    """Why there are no images of the ID set to test on, "" where its folders are there."""
    kind = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    try:
        kind.find_splits(kind.locate(cfg))
    except InputError as error:
        return str(error)
    return ""
