import logging
from typing import Any

from yacs.config import CfgNode

from dassl.utils import InputError, Registry

TRAINER_REGISTRY = Registry("TRAINER")

logger = logging.getLogger(__name__)


def build_trainer(cfg: CfgNode, **options: Any) -> Any:
    """Build the registered trainer cfg.TRAINER.NAME; `options` go to its constructor.

    Raises:
        InputError: the trainer reads a setting that `cfg` does not have.
    """
    trainer_class = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    if (node := trainer_class.CONFIG_KEY) and node not in cfg.TRAINER:
        raise InputError(
            f"the config has no settings of {cfg.TRAINER.NAME}, TRAINER.{node}: begin with "
            f"run.settings.default_cfg(), or set cfg.TRAINER.{node} = {trainer_class.__name__}"
            ".CONFIG.clone()"
        )
    if cfg.VERBOSE:
        logger.info("Loading trainer: %s", cfg.TRAINER.NAME)
    try:
        return trainer_class(cfg, **options)
    except AttributeError as error:
        if not isinstance(error.obj, CfgNode):
            raise
        raise InputError(
            f"{cfg.TRAINER.NAME} reads the setting {error.name}, which the config does not have. A "
            "trainer declares the settings of its own in CONFIG_KEY and CONFIG "
            "(docs/methods.md#add-one)"
        ) from error
