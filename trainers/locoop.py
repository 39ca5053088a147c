"""LoCoOp: CoOp, and background regions pushed away from every class."""

from __future__ import annotations

import logging
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from clip.prompted import cosines
from dassl.distributed import mean_of_sums, mean_over_ranks
from dassl.engine import TRAINER_REGISTRY
from dassl.utils.errors import InputError
from ood.regions import check_top_k, id_irrelevant_regions, suggest_top_k
from trainers.coop import PROMPT_CONFIG
from trainers.prompt_trainer import PromptTrainer

logger = logging.getLogger(__name__)

# Similarities of regions and classes held at once: 16 MB a copy, and a handful of copies.
CHUNK = 1 << 22


@TRAINER_REGISTRY.register()
class LoCoOp(PromptTrainer):
    """Local regularised context optimisation (Miyai et al., NeurIPS 2023)."""

    CONFIG_KEY = "LOCOOP"
    CONFIG = CfgNode(
        {
            **PROMPT_CONFIG,
            "LAMBDA": 0.25,  # weight of the OOD regularisation; 0 is CoOp
            "TOPK": 0,  # K; 0: the paper's ratio, 200 of 1000 classes, for any number of classes
        }
    )
    LOCAL = True
    SCORE = "GL-MCM"
    FLAGS: ClassVar = {"lambda_value": "LAMBDA", "topk": "TOPK"}

    def check_cfg(self, cfg: CfgNode) -> None:
        if not 0 <= cfg.TRAINER.LOCOOP.LAMBDA < float("inf"):
            raise InputError(
                f"TRAINER.LOCOOP.LAMBDA (--lambda_value) is {cfg.TRAINER.LOCOOP.LAMBDA}: the "
                "weight of the OOD regularisation must be 0 or more; 0 is CoOp"
            )

    def build_model(self) -> None:
        if self.settings.TOPK == 0:
            logger.info(
                "K = %d of %d classes: preset, the paper's ratio of 200 to 1000, not tuned for "
                "this data (--topk); lambda = %g (the paper: 0.25, --lambda_value)",
                self.top_k,
                self.num_classes,
                self.settings.LAMBDA,
            )
        super().build_model()

    @property
    def top_k(self) -> int:
        """K, the preset where none is asked for."""
        return self.settings.TOPK or suggest_top_k(self.num_classes)

    def provenance(self) -> dict[str, object]:
        facts = super().provenance()
        facts["comparable"]["settings"]["TOPK"] = self.top_k
        return facts | {"top_k_is_a_preset": self.settings.TOPK == 0}

    def before_train(self) -> None:
        check_top_k(self.top_k, self.num_classes)
        super().before_train()

    def loss(
        self, features: Tensor, regions: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        text, scale = self.model.text_features(), self.model.scale
        similarity = cosines(features, text)
        loss_id = mean_over_ranks(F.cross_entropy(scale * similarity, labels, reduction="none"))
        loss_en = ood_regularisation(regions, text, labels, scale, self.top_k)
        total = loss_id + self.settings.LAMBDA * loss_en
        return similarity, {"loss": total, "loss_id": loss_id, "loss_en": loss_en}


def ood_regularisation(
    regions: Tensor, text: Tensor, labels: Tensor, scale: Tensor, k: int, chunk: int = CHUNK
) -> Tensor:
    """Minus the mean entropy of the batch's ID-irrelevant regions (LoCoOp, equations 4 to 6).

    Args:
        regions: local features `[B, N, D]`, normalised; no gradient reaches them.
        text: text features `[C, D]`, normalised. labels: `[B]`.
        scale: of the softmax, fixed. k: K.
        chunk: similarities of regions and classes computed at once.

    Returns:
        A scalar; 0 where no region of the batch is ID-irrelevant. Under torchrun the mean runs
        over the regions of all ranks.
    """
    with torch.autocast(text.device.type, enabled=False):
        labels = labels.repeat_interleave(regions.shape[1])
        regions = regions.detach().flatten(0, 1)  # [B N, D]
        total, count = _SumOfNegativeEntropies.apply(
            text, regions, labels, scale.detach(), k, chunk
        )
    return mean_of_sums(total, count)


class _SumOfNegativeEntropies(torch.autograd.Function):
    """Similarities of regions and classes exist for one chunk at a time, and are computed once.

    The result is a sum over regions, so a chunk's share of the gradient with respect to the
    text features is known as soon as the chunk is: it is taken at once, in the forward pass.
    """

    @staticmethod
    def forward(ctx, text, regions, labels, scale, k, chunk):
        size = max(1, chunk // len(text))
        total, count, grad = text.new_zeros(()), 0, torch.zeros_like(text)
        for part, of in zip(regions.split(size), labels.split(size), strict=True):
            with torch.enable_grad():
                leaf = text.detach().requires_grad_(ctx.needs_input_grad[0])
                values = _negative_entropies(part, leaf, of, scale, k)  # [selected]
                summed = values.sum()
            if summed.requires_grad:
                grad += torch.autograd.grad(summed, leaf)[0]
            total += summed.detach()
            count += len(values)
        ctx.save_for_backward(grad)
        count = total.new_tensor(count)
        ctx.mark_non_differentiable(count)
        return total, count

    @staticmethod
    def backward(ctx, grad_output, _):
        return grad_output * ctx.saved_tensors[0], None, None, None, None, None


def _negative_entropies(
    regions: Tensor, text: Tensor, labels: Tensor, scale: Tensor, k: int
) -> Tensor:
    """Of those of the regions `[n, D]` that are ID-irrelevant; `labels` `[n]`."""
    similarity = regions @ text.T  # [n, C]
    irrelevant = id_irrelevant_regions(similarity.detach()[:, None], labels, k)[:, 0]
    log_p = F.log_softmax(scale * similarity[irrelevant], dim=-1)  # [selected, C]
    p = log_p.exp()
    # log(p + 1e-5) and not log_p: the published objective, bounded where p vanishes.
    return (p * torch.log(p + 1e-5)).sum(dim=-1)
