import logging
from typing import Any

from yacs.config import CfgNode

from dassl.utils import Registry

TRAINER_REGISTRY = Registry("TRAINER")

logger = logging.getLogger(__name__)


def build_trainer(cfg: CfgNode, **options: Any) -> Any:
    """Build the registered trainer cfg.TRAINER.NAME; `options` go to its constructor."""
    trainer_class = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    if cfg.VERBOSE:
        logger.info("Loading trainer: %s", cfg.TRAINER.NAME)
    return trainer_class(cfg, **options)
