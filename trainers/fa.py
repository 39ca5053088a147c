"""FA: CoOp, whose prompts must beat copies of the frozen prompts that they started from."""

import math

import torch
from torch import Tensor
from yacs.config import CfgNode

from clip import ClipModel
from clip.prompted import PromptedCLIP, cosines
from dassl.engine import TRAINER_REGISTRY
from dassl.utils.errors import InputError
from trainers.by_step import StepSchedule
from trainers.coop import PROMPT_CONFIG, CoOp
from trainers.prompt_trainer import LearnedPrompts


@TRAINER_REGISTRY.register()
class FA(StepSchedule, CoOp):
    """Forced prompt learning (Lu et al., ICCV 2025).

    The softmax of the cross entropy runs over the C learned ("forced") prompts and K copies of
    the C frozen ones; the label is the learned one. K = 0 is CoOp.

    Differs from upstream: the context is float32 (there float16, without loss scaling); K and the
    frozen words are kept in the checkpoint, so that one is never scored with another K.
    """

    CONFIG_KEY = "FA"
    CONFIG = CfgNode(
        {
            **PROMPT_CONFIG,
            "N_CTX": 4,  # as many as CTX_INIT has tokens, which count
            "CTX_INIT": "a photo of a",  # the frozen prompts' words, too
            "K": 3,  # copies of the frozen prompts in the softmax
        }
    )
    COPIES = True
    SCORE = "FA-MCM"
    MUST_MATCH = (*CoOp.MUST_MATCH, "trainer", "K", "frozen_words")

    def check_cfg(self, cfg: CfgNode) -> None:
        own = cfg.TRAINER.FA
        if not own.CTX_INIT.strip("_ "):
            raise InputError(
                "TRAINER.FA.CTX_INIT is empty: the learned prompts would be held against random "
                'ones. Give words, as "a photo of a"'
            )
        if own.K < 0:
            raise InputError(
                f"TRAINER.FA.K is {own.K}: the number of copies of the frozen prompts must be 0 or "
                "more; the paper uses 2 to 4, 0 is CoOp"
            )

    def build_prompted(self, clip: ClipModel, prompts: LearnedPrompts) -> PromptedCLIP:
        with torch.no_grad(), self.autocast():
            frozen = PromptedCLIP(clip, prompts).text_features()
        return ForcedCLIP(clip, prompts, frozen, self.settings.K)

    def with_rivals(self, logits: Tensor, features: Tensor) -> Tensor:
        if self.settings.K == 0:
            return logits
        frozen = self.model.scale * cosines(features, self.model.frozen)
        return torch.cat([logits, frozen + math.log(self.settings.K)], dim=1)  # K copies: + log K

    def checkpoint_meta(self) -> dict[str, str | int]:
        own = self.settings
        return {**super().checkpoint_meta(), "K": own.K, "frozen_words": own.CTX_INIT}


class ForcedCLIP(PromptedCLIP):
    """A frozen CLIP with learned prompts and `copies` times the frozen text features `[C, D]`."""

    has_frozen = True

    def __init__(self, clip: ClipModel, prompts: LearnedPrompts, frozen: Tensor, copies: int):
        super().__init__(clip, prompts)
        self.register_buffer("frozen", frozen, persistent=False)
        self.register_buffer("copies", frozen.new_tensor(copies), persistent=False)

    def class_features(self) -> dict[str, Tensor]:
        return {**super().class_features(), "frozen": self.frozen, "copies": self.copies}
