"""The kinds of data, and which of them a run needs."""

from enum import Flag, auto

from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from dassl.utils.errors import InputError
from datasets.classfolders import ClassFolders


class Needs(Flag):
    """The data that a run reads: ID test and training images, OOD sets, image-caption pairs."""

    TEST = auto()
    TRAIN = auto()
    OOD = auto()
    PAIRS = auto()


EVALUATION = Needs.TEST | Needs.OOD
NOTHING = Needs(0)


def training_needs(cfg: CfgNode) -> Needs:
    """Return what a training reads: ID training images or image-caption pairs, and test images.

    With pairs that are not the ID set's own images, a training needs only the class names of the
    ID set. If these are known and there are no test images, it runs without.
    """
    if not TRAINER_REGISTRY.get(cfg.TRAINER.NAME).READS_PAIRS:
        return Needs.TEST | Needs.TRAIN
    if cfg.DATASET.PAIRS.SOURCE == "classnames":
        return Needs.TEST | Needs.TRAIN | Needs.PAIRS
    if names_known(cfg) and missing_images(cfg):
        return Needs.PAIRS
    return Needs.TEST | Needs.PAIRS


def names_known(cfg: CfgNode) -> bool:
    """Return whether the ID set can be built without images: build_trainer(cfg, images=False)."""
    dataset_class = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    return issubclass(dataset_class, ClassFolders) and dataset_class.knows_classes(cfg)


def missing_images(cfg: CfgNode) -> str:
    """Say why the ID set has no test images, "" if its folders exist."""
    dataset_class = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    try:
        dataset_class.find_splits(dataset_class.locate(cfg))
    except InputError as error:
        return str(error)
    return ""
