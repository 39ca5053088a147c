"""LoCoOp: CoOp plus a loss that pushes background regions away from every class."""

import logging
from math import inf
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from clip.prompted import cosines, exact
from dassl.distributed import mean_of_sums, mean_over_ranks
from dassl.engine import TRAINER_REGISTRY
from dassl.utils.errors import InputError
from ood.regions import check_top_k, id_irrelevant_regions, suggest_top_k
from trainers.coop import PROMPT_CONFIG
from trainers.prompt_trainer import PromptTrainer

logger = logging.getLogger(__name__)

# Similarities of regions and classes computed at once. Memory holds a few copies of 4 bytes each:
# 16 MB a copy on a CPU, 256 MB on a GPU, which small chunks would leave waiting for the host.
CHUNK = {"cpu": 1 << 22, "cuda": 1 << 26}


@TRAINER_REGISTRY.register()
class LoCoOp(PromptTrainer):
    """Local regularised context optimisation (Miyai et al., NeurIPS 2023).

    Differs from upstream: as CoOp; a batch without ID-irrelevant regions gives a term of 0 (there
    an integer); K above the number of classes is refused (there a crash); lambda may be 0.
    """

    CONFIG_KEY = "LOCOOP"
    CONFIG = CfgNode(
        {
            **PROMPT_CONFIG,
            "LAMBDA": 0.25,  # weight of the OOD regularisation; 0 is CoOp
            "TOPK": 0,  # K; 0 for the paper's ratio to the number of classes, 200 of 1000
        }
    )
    RANGES: ClassVar = {"TOPK": (0, inf)}
    LOCAL = True
    GRAPHED = True
    SCORE = "GL-MCM"
    FLAGS: ClassVar = {"lambda_value": "LAMBDA", "topk": "TOPK"}
    WEIGHTS = ("LAMBDA",)

    def check_cfg(self, cfg: CfgNode) -> None:
        flags = {key: f" (--{flag})" for flag, key in self.FLAGS.items()}
        for key in self.WEIGHTS:
            value = cfg.TRAINER[self.CONFIG_KEY][key]
            if not 0 <= value < inf:
                raise InputError(
                    f"TRAINER.{self.CONFIG_KEY}.{key}{flags.get(key, '')} is {value}: the weight "
                    "of a loss term must be 0 or more; 0 leaves the term out"
                )

    def build_model(self) -> None:
        if self.settings.TOPK == 0:
            logger.info(
                "K = %d of %d classes: preset by the paper's ratio, 200 of 1000, not tuned for "
                "this data (--topk sets another)",
                self.top_k,
                self.num_classes,
            )
        super().build_model()

    @property
    def top_k(self) -> int:
        """Return K: TOPK, or if that is 0 the paper's ratio."""
        return self.settings.TOPK or suggest_top_k(self.num_classes)

    def provenance(self) -> dict[str, object]:
        facts = super().provenance()
        facts["comparable"]["settings"]["TOPK"] = self.top_k
        return facts

    def before_train(self) -> None:
        check_top_k(self.top_k, self.num_classes)
        if self.top_k == self.num_classes:
            logger.warning(
                "K = %d is the number of classes: no region is ID-irrelevant, and the loss ignores "
                "the regions (LoCoOp becomes CoOp). Choose a smaller K (--topk); the paper's ratio "
                "gives %d",
                self.top_k,
                suggest_top_k(self.num_classes),
            )
        super().before_train()

    def loss(
        self, features: Tensor, regions: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        text = self.model.text_features()
        similarity, loss_id, loss_en = self.terms(text, features, regions, labels)
        total = loss_id + self.settings.LAMBDA * loss_en
        return similarity, {"loss": total, "loss_id": loss_id, "loss_en": loss_en}

    def terms(
        self, text: Tensor, features: Tensor, regions: Tensor, labels: Tensor, *more: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return cosines `[B, C]`, the loss of the images and the regularisation of their regions.

        Args:
            text: text features `[C, D]`. more: further arguments of `region_weights`.
        """
        scale = self.model.scale
        similarity = cosines(features, text)
        losses = F.cross_entropy(scale * similarity, labels, reduction="none")  # [B]
        weights = self.region_weights(losses, *more)
        loss_en = ood_regularisation(regions, text, labels, scale, self.top_k, weights=weights)
        return similarity, mean_over_ranks(self.image_losses(losses)), loss_en

    def image_losses(self, losses: Tensor) -> Tensor:
        """Return the images' cross entropies `[B]`, weighted."""
        return losses

    def region_weights(self, losses: Tensor) -> Tensor:
        """Return the regions' weights, `[B, N]` or `[B, 1]`, given the cross entropies `[B]`."""
        return losses.new_ones(len(losses), 1)


def ood_regularisation(
    regions: Tensor,
    text: Tensor,
    labels: Tensor,
    scale: Tensor,
    k: int,
    chunk: int | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return minus the mean weighted entropy of the batch's ID-irrelevant regions.

    With `p = softmax(scale * regions @ text.T)` and J the regions whose label is not among their
    K most probable classes, this is (LoCoOp, equations 4 to 6)

        1/|J| sum_{j in J} w_j sum_c p_jc log(p_jc + 1e-5)

    Args:
        regions: local features `[B, N, D]`, normalised; no gradient reaches them.
        text: text features `[C, D]`, normalised. labels: `[B]`.
        chunk: similarities of regions and classes computed at once; None for the device's CHUNK.
        weights: w, `[B, N]` or `[B, 1]`, which a gradient reaches; None for 1. The sum is divided
            by the number of regions, not by the sum of their weights.

    Returns:
        A scalar; 0 if no region of the batch is ID-irrelevant. Under torchrun the mean runs over
        the regions of all ranks.
    """
    with exact(text):
        weights = text.new_ones(1, 1) if weights is None else weights
        weights = weights.expand(regions.shape[:2]).flatten()  # [B N]
        labels = labels.repeat_interleave(regions.shape[1])  # [B N]
        regions = regions.detach().flatten(0, 1)  # [B N, D]
        size = max(1, (chunk or CHUNK[text.device.type]) // len(text))
        total, count = _SumOfNegativeEntropies.apply(
            text, weights, regions, labels, scale.detach(), k, size
        )
    return mean_of_sums(total, count)


class _SumOfNegativeEntropies(torch.autograd.Function):
    """Sum the regions' weighted negative entropies over chunks, computing each similarity once.

    The result is a sum over regions, so a chunk's share of the gradient with respect to the text
    features is computed in the forward pass, while its similarities are in memory. The gradient
    with respect to a region's weight is the region's own value.
    """

    @staticmethod
    def forward(ctx, text, weights, regions, labels, scale, k, size):
        total, count, grad = text.new_zeros(()), text.new_zeros(()), torch.zeros_like(text)
        all_values, chunks = [], (x.split(size) for x in (regions, labels, weights))
        for chunk, chunk_labels, chunk_weights in zip(*chunks, strict=True):
            with torch.enable_grad():
                leaf = text.detach().requires_grad_(ctx.needs_input_grad[0])
                values, irrelevant = _negative_entropies(chunk, leaf, chunk_labels, scale, k)
                weighted = (values * chunk_weights.detach()).sum()
            if weighted.requires_grad:
                grad += torch.autograd.grad(weighted, leaf)[0]
            total += weighted.detach()
            count += irrelevant
            all_values.append(values.detach())
        ctx.save_for_backward(grad, torch.cat(all_values))
        ctx.mark_non_differentiable(count)
        return total, count

    @staticmethod
    def backward(ctx, grad_output, _):
        text, weights = (grad_output * saved for saved in ctx.saved_tensors)
        return text, weights if ctx.needs_input_grad[1] else None, *[None] * 5


def _negative_entropies(
    regions: Tensor, text: Tensor, labels: Tensor, scale: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Return sum_c p log(p + 1e-5) `[n]` of regions `[n, D]`, and how many are ID-irrelevant.

    The other regions get 0: leaving them out would make the host wait for the device.
    """
    similarity = regions @ text.T  # [n, C]
    irrelevant = id_irrelevant_regions(similarity.detach()[:, None], labels, k)[:, 0]  # [n]
    log_p = F.log_softmax(scale * similarity, dim=-1)  # [n, C]
    p = log_p.exp()
    # log(p + 1e-5), not log_p, is the published objective: it is bounded where p vanishes.
    values = (p * torch.log(p + 1e-5)).sum(dim=-1)  # [n]
    return values.masked_fill(~irrelevant, 0), irrelevant.sum()
