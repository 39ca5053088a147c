"""Parts of the data, and what a run needs of them."""

from enum import Flag, auto

from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
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


def training_needs(cfg: CfgNode) -> Needs:
    """Return what a training reads: ID images, or image-caption pairs, and images to test on.

    A trainer of pairs that are not the ID set's own images needs no more of the ID set than the
    class names; where no images are there to test on and the names are known, it goes without.
    """
    if not TRAINER_REGISTRY.get(cfg.TRAINER.NAME).READS_PAIRS:
        return Needs.TEST | Needs.TRAIN
    if cfg.DATASET.PAIRS.SOURCE == "classnames":
        return Needs.TEST | Needs.TRAIN | Needs.PAIRS
    if names_known(cfg) and missing_images(cfg):
        return Needs.PAIRS
    return Needs.TEST | Needs.PAIRS


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
