"""What a run reads of the data, by its trainer."""

from __future__ import annotations

from yacs.config import CfgNode

from dassl.engine import TRAINER_REGISTRY
from datasets.needs import Needs, missing_images, names_known


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
