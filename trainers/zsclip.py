"""Zero-shot CLIP: hand-written prompts, no training."""

import logging

from yacs.config import CfgNode

from clip.prompted import PromptedCLIP
from clip.templates import classifier, fill, template_pairs
from dassl.engine import TRAINER_REGISTRY
from dassl.utils.errors import InputError
from trainers.base import ClipTrainer

logger = logging.getLogger(__name__)


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(ClipTrainer):
    """CLIP without training (Radford et al., ICML 2021), the model of MCM and GL-MCM."""

    CONFIG_KEY = "ZSCLIP"
    LEARNS = False
    CONFIG = CfgNode(
        {
            "PREC": "amp",
            "TEMPLATE": "dataset",  # DATASET.TEMPLATE; or see `clip.templates.template_pairs`
        }
    )

    @property
    def template(self) -> str:
        """Return the templates in use: the data set's, unless TEMPLATE names others."""
        template = self.settings.TEMPLATE
        return self.cfg.DATASET.TEMPLATE if template == "dataset" else template

    def provenance(self) -> dict[str, object]:
        facts = super().provenance()
        facts["comparable"]["settings"]["TEMPLATE"] = self.template
        return facts

    def build_model(self) -> None:
        clip = self.load_clip()
        templates = [template for template, _ in template_pairs(self.template)]
        names = self.dm.dataset.classnames
        logger.info(
            "Prompts: %d template(s), the first: %s", len(templates), fill(templates[0], names[0])
        )
        features = classifier(clip, names, templates)
        self.model = PromptedCLIP(clip, lambda: features)

    def train(self) -> None:
        """Only report the accuracy: there is nothing to train."""
        self.test()

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        if not directory:
            return
        raise InputError(
            f"zero-shot CLIP has no learned weights to load from {directory}: leave out "
            "--model-dir, or name the trainer of that run (--trainer)"
        )
