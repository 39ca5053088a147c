"""LoCoOp: CoOp, and background regions pushed away from every class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from dassl.engine import TRAINER_REGISTRY
from dassl.utils.errors import InputError
from ood.regions import check_top_k, id_irrelevant_regions
from trainers.base import PromptTrainer
from trainers.coop import PROMPT_CONFIG


@TRAINER_REGISTRY.register()
class LoCoOp(PromptTrainer):
    """Local regularised context optimisation (Miyai et al., NeurIPS 2023)."""

    CONFIG_KEY = "LOCOOP"
    CONFIG = CfgNode({
        **PROMPT_CONFIG,
        "LAMBDA": 0.25,  # weight of the OOD regularisation; 0 is CoOp
        "TOPK": 200,  # K: chosen for 1000 classes, see README for other numbers
    })
    FLAGS = {"lambda_value": "LAMBDA", "topk": "TOPK"}

    def check_cfg(self, cfg: CfgNode) -> None:
        if not 0 <= cfg.TRAINER.LOCOOP.LAMBDA < float("inf"):
            raise InputError(
                f"TRAINER.LOCOOP.LAMBDA (--lambda_value) is {cfg.TRAINER.LOCOOP.LAMBDA}: the weight "
                "of the OOD regularisation must be 0 or more; 0 is CoOp"
            )

    def before_train(self) -> None:
        check_top_k(self.settings.TOPK, self.num_classes)
        super().before_train()

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        cosines, local_cosines = self.model(images, local=True)
        scale = self.model.scale
        loss_id = F.cross_entropy(scale * cosines, labels)
        loss_en = ood_regularisation(local_cosines, labels, scale, self.settings.TOPK)
        total = loss_id + self.settings.LAMBDA * loss_en
        return cosines, {"loss": total, "loss_id": loss_id, "loss_en": loss_en}


def ood_regularisation(local_cosines: Tensor, labels: Tensor, scale: Tensor, k: int) -> Tensor:
    """Minus the mean entropy of the batch's ID-irrelevant regions (LoCoOp, equations 4 to 6).

    Args:
        local_cosines: `[B, N, C]`. labels: `[B]`. scale: of the softmax. k: K.

    Returns:
        A scalar; 0 where no region of the batch is ID-irrelevant.
    """
    irrelevant = id_irrelevant_regions(local_cosines.detach(), labels, k)  # [B, N]
    log_p = F.log_softmax(scale * local_cosines[irrelevant], dim=-1)  # [selected, C]
    p = log_p.exp()
    # log(p + 1e-5) and not log_p: the published objective, bounded where p vanishes.
    negative_entropy = (p * torch.log(p + 1e-5)).sum(dim=-1)
    return negative_entropy.sum() / max(1, len(negative_entropy))
