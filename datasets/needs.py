"""Parts of the data, of which a run says what it needs."""

from __future__ import annotations

from enum import Flag, auto

from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils.errors import InputError
from datasets.classfolders import ClassFolders


class Needs(Flag):
    """Name what a run reads: ID test and training images, OOD sets, image-caption pairs."""

    TEST = auto()
    TRAIN = auto()
    OOD = auto()
    PAIRS = auto()


EVALUATION = Needs.TEST | Needs.OOD
NOTHING = Needs(0)


def names_known(cfg: CfgNode) -> bool:
    """Return whether the ID set may be built without images: build_trainer(cfg, images=False)."""
    kind = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    return issubclass(kind, ClassFolders) and kind.knows_classes(cfg)


def missing_images(cfg: CfgNode) -> str:
    """Say why there are no images of the ID set to test on, "" where its folders are there."""
    kind = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    try:
        kind.find_splits(kind.locate(cfg))
    except InputError as error:
        return str(error)
    return ""
