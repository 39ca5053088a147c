"""Datasets by name."""

import logging

from yacs.config import CfgNode

from dassl.utils import Registry

from .base_dataset import DatasetBase

DATASET_REGISTRY = Registry("DATASET")

logger = logging.getLogger(__name__)


def build_dataset(cfg: CfgNode, images: bool = True) -> DatasetBase:
    """Build the registered dataset cfg.DATASET.NAME.

    With `images` False (for classes that accept it) the dataset has class names only: nothing need
    be on the disk, and its lists of images are None.
    """
    dataset_class = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    if cfg.VERBOSE:
        logger.info("Loading dataset: %s", cfg.DATASET.NAME)
    return dataset_class(cfg) if images else dataset_class(cfg, images=False)
