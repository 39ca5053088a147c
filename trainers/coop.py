"""CoOp: learn the context words of the prompt."""

import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from clip.prefix import CHUNK
from clip.prompted import cosines
from dassl.distributed import mean_over_ranks
from dassl.engine import TRAINER_REGISTRY
from trainers.prompt_trainer import PromptTrainer

PROMPT_CONFIG = {
    "N_CTX": 16,  # number of context vectors
    "CSC": False,  # one context per class
    "CTX_INIT": "",  # words to start from, instead of N_CTX random vectors
    "PREC": "amp",  # fp32, tf32, amp, amp_bf16 or fp16 (towers in float16)
    "CLASS_TOKEN_POSITION": "end",  # end, middle or front
    "TEXT_CHUNK": CHUNK,  # prompt tokens encoded at once: changes memory and time, not figures
}


@TRAINER_REGISTRY.register()
class CoOp(PromptTrainer):
    """Learn context vectors (Zhou et al., Learning to Prompt for Vision-Language Models, 2022).

    Differs from upstream: the context is float32 in every precision (there float16); few-shot
    splits come from sorted listings; CTX_INIT counts tokens, not words.
    """

    CONFIG_KEY = "COOP"
    GRAPHED = True
    CONFIG = CfgNode(PROMPT_CONFIG)

    def loss(
        self, features: Tensor, regions: Tensor | None, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        similarity = cosines(features, self.model.text_features())
        logits = self.with_rivals(self.model.scale * similarity, features)
        losses = F.cross_entropy(logits, labels, reduction="none")  # [B]
        return similarity, {"loss": mean_over_ranks(losses)}

    def with_rivals(self, logits: Tensor, features: Tensor) -> Tensor:
        """Return the softmax's logits `[B, C + R]`: those of the classes and of R rivals."""
        return logits
