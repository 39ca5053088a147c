from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dassl.utils import Registry

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from .base_dataset import DatasetBase

DATASET_REGISTRY = Registry("DATASET")

logger = logging.getLogger(__name__)


def build_dataset(cfg: CfgNode, images: bool = True) -> DatasetBase:
    """Build the registered dataset cfg.DATASET.NAME.

    `images` False: its class names alone, see `DatasetBase.without_images`.
    """
    dataset = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    if cfg.VERBOSE:
        logger.info("Loading dataset: %s", cfg.DATASET.NAME)
    return dataset(cfg) if images else dataset.without_images(cfg)
