"""Evaluators by name."""

import logging
from typing import Any

from yacs.config import CfgNode

from dassl.utils import Registry

EVALUATOR_REGISTRY = Registry("EVALUATOR")

logger = logging.getLogger(__name__)


def build_evaluator(cfg: CfgNode, **kwargs: Any) -> Any:
    """Build the registered evaluator cfg.TEST.EVALUATOR."""
    evaluator_class = EVALUATOR_REGISTRY.get(cfg.TEST.EVALUATOR)
    if cfg.VERBOSE:
        logger.info("Loading evaluator: %s", cfg.TEST.EVALUATOR)
    return evaluator_class(cfg, **kwargs)
