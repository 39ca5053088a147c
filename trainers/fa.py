"""FA: CoOp whose learned prompts must beat copies of the frozen prompts they started from."""

from math import inf, log
from typing import ClassVar

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
    the C frozen ones; the target is the label's learned prompt. K = 0 is CoOp.

    Differs from upstream: the context is float32 (there float16, without loss scaling); the second
    accuracy, of image and best region together, is not computed; the checkpoint records K and the
    frozen words, so that it is never scored with others.
    """

    CONFIG_KEY = "FA"
    CONFIG = CfgNode(
        {
            **PROMPT_CONFIG,
            "N_CTX": 4,  # names the run's folder; CTX_INIT's number of tokens is used
            "CTX_INIT": "a photo of a",  # both the learned prompts' start and the frozen prompts
            "K": 3,  # copies of the frozen prompts in the softmax
        }
    )
    RANGES: ClassVar = {"K": (0, inf)}
    COPIES = True
    SCORE = "FA-MCM"
    MUST_MATCH = (*CoOp.MUST_MATCH, "trainer", "K", "frozen_words")

    def check_cfg(self, cfg: CfgNode) -> None:
        settings = cfg.TRAINER.FA
        if not settings.CTX_INIT.strip("_ "):
            raise InputError(
                "TRAINER.FA.CTX_INIT is empty: the learned prompts would compete with random "
                'ones. Give words, such as "a photo of a"'
            )

    def build_prompted(self, clip: ClipModel, prompts: LearnedPrompts) -> PromptedCLIP:
        with torch.no_grad(), self.autocast():
            frozen = PromptedCLIP(clip, prompts).text_features()
        return ForcedCLIP(clip, prompts, frozen, self.settings.K)

    def with_rivals(self, logits: Tensor, features: Tensor) -> Tensor:
        if self.settings.K == 0:
            return logits
        frozen = self.model.scale * cosines(features, self.model.frozen)
        return torch.cat([logits, frozen + log(self.settings.K)], dim=1)  # log K: K copies

    def checkpoint_meta(self) -> dict[str, str | int]:
        facts = {"K": self.settings.K, "frozen_words": self.settings.CTX_INIT}
        return super().checkpoint_meta() | facts


class ForcedCLIP(PromptedCLIP):
    """A frozen CLIP with learned prompts and `copies` of the frozen text features `[C, D]`."""

    has_frozen = True

    def __init__(self, clip: ClipModel, prompts: LearnedPrompts, frozen: Tensor, copies: int):
        super().__init__(clip, prompts)
        self.register_buffer("frozen", frozen, persistent=False)
        self.register_buffer("copies", frozen.new_tensor(copies), persistent=False)

    def class_features(self) -> dict[str, Tensor]:
        return {**super().class_features(), "frozen": self.frozen, "copies": self.copies}
