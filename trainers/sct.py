"""SCT: LoCoOp with its two loss terms weighted by the model's confidence in an image."""

from torch import Tensor

from dassl.engine import TRAINER_REGISTRY
from trainers.locoop import LoCoOp


@TRAINER_REGISTRY.register()
class SCT(LoCoOp):
    """Self-calibrated tuning (Yu et al., NeurIPS 2024).

    With t the probability of an image's label, the weight of its cross entropy is 1 - t and that of
    its regions t, each plus 1e-7: while the model does not recognise an image, it cannot tell its
    background.

    Differs from upstream: as LoCoOp; the loss uses log_softmax in every precision (there
    log(p + 1e-12) with mixed precision).
    """

    CONFIG_KEY = "SCT"

    def image_losses(self, losses: Tensor) -> Tensor:
        return losses * (1.0000001 - (-losses).exp())

    def region_weights(self, losses: Tensor) -> Tensor:
        return 1e-7 + (-losses).exp()[:, None]  # [B, 1]; t has a gradient, in both weights
