"""The common base of the trainers that learn from image-caption pairs, CLIPN and ZOC."""

import logging
import os
from typing import Any

from yacs.config import CfgNode

from clip import weights_hash
from datasets.captions import PairsLoader, build_pairs_loader
from trainers.by_step import StepSchedule

logger = logging.getLogger(__name__)


class PairTrainer(StepSchedule):
    """A trainer that learns from DATASET.PAIRS; the learned weights fit any class list."""

    READS_PAIRS = True

    @property
    def captions_are_classnames(self) -> bool:
        """Return whether the pairs are the ID dataset's images with its class names."""
        return self.cfg.DATASET.PAIRS.SOURCE == "classnames"

    def pairs_loader(self, *args: Any, **kwargs: Any) -> PairsLoader:
        """Build the loader of DATASET.PAIRS, with a warning if the captions are class names."""
        if self.captions_are_classnames:
            logger.warning(
                "The captions are made from class names. This is not the paper's setting: do not "
                "compare its figures with those of %s",
                type(self).__name__,
            )
        return build_pairs_loader(self.cfg, *args, **kwargs)

    def record_split(self) -> None:
        """Record the training images if they are those of the ID dataset."""
        if self.captions_are_classnames:
            super().record_split()

    def training_facts(self, cfg: CfgNode) -> dict[str, object]:
        template = cfg.TRAINER[self.CONFIG_KEY].get("TEMPLATE")  # of handcrafted CLIPN's captions
        pairs = {**cfg.DATASET.PAIRS, "PATH": os.path.basename(cfg.DATASET.PAIRS.PATH)}
        return super().training_facts(cfg) | {"pairs": pairs, "template": template}

    def provenance(self) -> dict[str, object]:
        ((name, learned),) = self._models.items()
        file = self._loaded_from or self.cfg.MODEL.INIT_WEIGHTS or self.model.clip.name
        facts = {"file": file, "hash": weights_hash(learned.state_dict())}
        return super().provenance() | {name: facts}
