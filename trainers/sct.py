"""SCT: LoCoOp, its two terms weighed by how sure the model is of an image."""

from torch import Tensor

from dassl.engine import TRAINER_REGISTRY
from trainers.locoop import LoCoOp


@TRAINER_REGISTRY.register()
class SCT(LoCoOp):
    """Self-calibrated tuning (Yu et al., NeurIPS 2024).

    With t the probability of an image's label, its cross entropy weighs 1 - t and its regions
    weigh t: the regions of an image that the model does not recognise yet are not background.

    Differs from upstream: the logarithm is log_softmax's in every precision (there, with mixed
    precision, log(p + 1e-12)).
    """

    CONFIG_KEY = "SCT"

    def image_losses(self, losses: Tensor) -> Tensor:
        return losses * (1.0000001 - (-losses).exp())

    def region_weights(self, losses: Tensor) -> Tensor:
        return 1e-7 + (-losses).exp()[:, None]  # [B, 1]; the gradient reaches t here and above
