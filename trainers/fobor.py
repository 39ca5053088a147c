"""FoBoR on LoCoOp and on SCT: background weighted by attention, confusable foreground rectified."""

from math import inf
from typing import ClassVar

import torch
from torch import Tensor
from yacs.config import CfgNode

from clip.image import collected_attention
from clip.prompted import cosines, exact
from dassl.distributed import mean_over_ranks
from dassl.engine import TRAINER_REGISTRY
from trainers.coop import PROMPT_CONFIG
from trainers.locoop import LoCoOp
from trainers.sct import SCT


class FoBoR(LoCoOp):
    """Foreground and background refinement (Li et al., arXiv 2601.15065, 2026).

    Adaptive background suppression weights a region by the attention it receives and by the model's
    confidence in the image. Confusable foreground rectification takes the region most similar to
    the label's hardest rival, and raises the entropy between label and rival there.

    Differs from upstream: as LoCoOp; one rival and one region, as in all its commands; the cross
    entropy uses log_softmax in every precision.
    """

    CONFIG = CfgNode(
        {
            **PROMPT_CONFIG,
            "ALPHA": 0.2,  # weight of the background suppression; replaces LoCoOp's lambda
            "BETA": 3.0,  # weight of the foreground rectification
            "ETA": 5.0,  # how strongly attention changes a region's weight
            "FUSE": 0.17,  # share of the texts' similarity in choosing the rival, 0 to 1
            "TOPK": 0,  # K; 0 for the paper's ratio to the number of classes, 200 of 1000
        }
    )
    RANGES: ClassVar = {**LoCoOp.RANGES, "ETA": (0, inf), "FUSE": (0, 1)}
    ATTENTION = True
    BATCH = ("features", "regions", "attention", "label")
    FLAGS: ClassVar = {"topk": "TOPK"}
    WEIGHTS = ("ALPHA", "BETA")

    def build_model(self) -> None:
        super().build_model()
        with collected_attention(self.model.clip.visual):
            pass  # raises InputError for a tower without attention

    def loss(
        self, features: Tensor, regions: Tensor, attention: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return cosines and losses as `LoCoOp.loss`; `attention` is the regions', `[B, N]`."""
        settings, text = self.settings, self.model.text_features()
        similarity, loss_id, loss_abs = self.terms(text, features, regions, labels, attention)
        loss_cfr = self.rectification(text, similarity, regions, labels)
        total = loss_id + settings.ALPHA * loss_abs + settings.BETA * loss_cfr
        parts = {"loss_id": loss_id, "loss_abs": loss_abs, "loss_cfr": loss_cfr}
        return similarity, {"loss": total, **parts}

    def region_weights(self, losses: Tensor, attention: Tensor) -> Tensor:
        low, high = attention.aminmax(dim=1, keepdim=True)
        attention = (attention - low) / (high - low + 1e-8)  # [B, N], 0 to 1 in each image
        weights = torch.sigmoid(self.settings.ETA * (-losses).exp()[:, None] * attention)
        return weights * super().region_weights(losses)  # LoCoOp's are 1, SCT's are not

    def rectification(
        self, text: Tensor, similarity: Tensor, regions: Tensor, labels: Tensor
    ) -> Tensor:
        """Return minus the mean entropy between label y and rival v on the region most like v.

        The rival v is the class c != y with the largest (1 - FUSE) f.t_c + FUSE t_y.t_c. With pi
        the region's softmax over all classes and q = pi / (pi_y + pi_v + 1e-4), an image's value
        is the sum over y and v of q log(q + 1e-5).

        Args:
            similarity: cosines `[B, C]` of the images with `text` `[C, D]`.
        """
        fuse, images = self.settings.FUSE, torch.arange(len(labels), device=labels.device)
        with torch.no_grad(), exact(text):  # choosing the rival and the region has no gradient
            rivals = (1 - fuse) * similarity + fuse * text[labels] @ text.T  # [B, C]
            rival = rivals.scatter(1, labels[:, None], -torch.inf).argmax(dim=1)  # [B]
            likeness = (regions @ text[rival][..., None]).squeeze(-1)  # [B, N]
            chosen = regions[images, likeness.argmax(dim=1)]  # [B, D]
        p = (self.model.scale * cosines(chosen, text)).softmax(dim=-1)  # [B, C]
        pair = p.gather(1, torch.stack([labels, rival], dim=1))  # [B, 2]
        q = pair / (pair.sum(dim=1, keepdim=True) + 1e-4)
        return mean_over_ranks((q * torch.log(q + 1e-5)).sum(dim=1))


@TRAINER_REGISTRY.register()
class LoCoOpFoBoR(FoBoR):
    """FoBoR on LoCoOp."""

    CONFIG_KEY = "LOCOOPFOBOR"


@TRAINER_REGISTRY.register()
class SCTFoBoR(FoBoR, SCT):
    """FoBoR on SCT, with the loss weights of both."""

    CONFIG_KEY = "SCTFOBOR"
