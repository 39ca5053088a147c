"""Zero-shot CLIP: a hand-written prompt, nothing is trained."""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from clip import tokenize
from dassl.engine import TRAINER_REGISTRY
from dassl.utils.errors import InputError
from trainers.base import ClipTrainer
from trainers.model import PromptedCLIP

logger = logging.getLogger(__name__)


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(ClipTrainer):
    """CLIP as it comes (Radford et al., ICML 2021), the model of MCM and GL-MCM."""

    CONFIG_KEY = "ZSCLIP"
    CONFIG = CfgNode({
        "PREC": "amp",
        # A template with {} for the class name, several separated by "|", or
        # "imagenet80": the 80 of CLIP's paper. Features are averaged over them.
        "TEMPLATE": "a photo of a {}.",
    })

    def build_model(self) -> None:
        clip = self.load_clip()
        templates = templates_of(self.settings.TEMPLATE)
        names = [name.replace("_", " ") for name in self.dm.dataset.classnames]
        logger.info("Prompts: %d template(s), the first: %s", len(templates), fill(templates[0], names[0]))
        with torch.no_grad():
            features = template_features(clip, names, templates)
        self.model = PromptedCLIP(clip, lambda: features)

    def train(self) -> None:
        """Nothing to train: only the accuracy is reported."""
        self.test()

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        if not directory:
            return
        raise InputError(
            f"zero-shot CLIP has nothing to load from {directory}: leave --model-dir out, or name "
            "the trainer the run was made with (--trainer)"
        )


def templates_of(setting: str) -> list[str]:
    """The templates a TEMPLATE setting stands for.

    Raises:
        InputError: a template without a place for the class name.
    """
    if setting == "imagenet80":
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
    templates = [part.strip() for part in setting.split("|")]
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong:
        raise InputError(
            f"TRAINER.ZSCLIP.TEMPLATE {wrong[0]!r} must hold {{}} once, where the class name goes; "
            "several templates are separated by |, imagenet80 stands for CLIP's 80"
        )
    return templates


def fill(template: str, name: str) -> str:
    """The template about one class; braces other than the place for the name stay as they are."""
    return template.replace("{}", name)


def template_features(clip, names: list[str], templates: list[str]) -> Tensor:
    """Text features `[C, D]`: over templates, the mean of the normalised features.

    Radford et al., Section 3.1.4. With one template this is that template's feature.
    """
    device = clip.logit_scale.device
    total = 0
    for template in templates:
        tokens = tokenize([fill(template, name) for name in names], truncate=True).to(device)
        total = total + F.normalize(clip.encode_text(tokens).float(), dim=-1)  # [C, D]
    return total / len(templates)
