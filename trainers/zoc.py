"""ZOC: a caption decoder on CLIP's image features suggests what else an image might show."""

from collections.abc import Sequence
from functools import cached_property, partial
from math import inf
from typing import ClassVar

import torch
from torch import Tensor
from yacs.config import CfgNode

from clip.captions import CaptionDecoder, Captioner
from clip.prompted import PromptedCLIP
from clip.templates import classifier
from clip.tokenizer import cut_to_longest, tokenize
from dassl.data.datasets import Datum
from dassl.distributed import mean_of_sums
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import InputError, load_pretrained_weights
from datasets.captions import PairsLoader
from trainers.features import features_by_path
from trainers.pairs import PairTrainer


@TRAINER_REGISTRY.register()
class ZOC(PairTrainer):
    """Zero-shot OOD detection by captions (Esmaeilpour et al., AAAI 2022).

    Only the caption decoder learns, by the cross entropy of each caption's next token. Images are
    not augmented, so image files are encoded once, and their features kept.

    Differs from upstream: the decoder is a copy of CLIP's text transformer and reads normalised
    features; it generates as it was trained, with positions and a causal mask (there without); the
    score has exp(logit_scale) in the place of 100.
    """

    CONFIG_KEY = "ZOC"
    CONFIG = CfgNode(
        {
            "PREC": "amp",  # fp32, tf32, amp, amp_bf16 or fp16 (frozen towers in float16)
            "TEMPLATE": "This is a photo of a {}",  # for classes and candidates
            "STEPS": 9,  # tokens of an image's greedy caption; 10 in the paper's text
            "TOP": 35,  # most probable tokens in each step, taken as candidates
            "WARMUP_STEPS": 500,
        }
    )
    RANGES: ClassVar = {"STEPS": (1, inf), "TOP": (1, inf), "WARMUP_STEPS": (0, inf)}
    MAY_DIFFER = ("TEMPLATE", "STEPS", "TOP")
    SCORE = "ZOC"
    BATCH = ("img", "tokens")

    def check_cfg(self, cfg: CfgNode) -> None:
        settings = cfg.TRAINER.ZOC
        if settings.TEMPLATE.count("{}") != 1:
            raise InputError(
                f"TRAINER.ZOC.TEMPLATE is {settings.TEMPLATE!r}: it must hold {{}} once, in the "
                "place of a class or candidate name"
            )

    def build_model(self) -> None:
        cfg, settings, clip = self.cfg, self.settings, self.load_clip()
        if clip.context_length < settings.STEPS:
            raise InputError(
                f"TRAINER.ZOC.STEPS is {settings.STEPS}: it must be {clip.context_length} or less, "
                f"as the decoder, a copy of {clip.name}'s text tower, reads no more tokens"
            )
        text = classifier(clip, self.dm.dataset.classnames, [settings.TEMPLATE])
        self.decoder = CaptionDecoder(clip).to(self.device)
        if cfg.MODEL.INIT_WEIGHTS:
            load_pretrained_weights(self.decoder, cfg.MODEL.INIT_WEIGHTS)
        self.model = PromptedCLIP(clip, lambda: text)
        captioner = Captioner(self.decoder, settings.STEPS, settings.TOP, settings.TEMPLATE)
        self.model.captioner = captioner.to(self.device)
        self.learn("decoder", self.decoder)

    @cached_property
    def train_loader_x(self) -> PairsLoader:
        """Build the loader of DATASET.PAIRS, which yields features if the images are files."""
        texts = partial(caption_tokens, self.model.clip.context_length)
        return self.pairs_loader(self.dm.tfm_test, texts=texts, encode=self.encode)

    def encode(self, paths: Sequence[str]) -> dict[str, Tensor]:
        """Return the normalised features `[D]` of the readable images by their paths."""
        # The loader replaces pairs whose images cannot be read.
        pairs = [Datum(path) for path in paths]
        features = features_by_path(self, {"pairs": pairs}, skip_bad=True)
        return {path: torch.from_numpy(row) for path, row in features.items()}

    def loss(self, images: Tensor, tokens: Tensor) -> tuple[None, dict[str, Tensor]]:
        """Return the mean cross entropy over the tokens of all ranks.

        Args:
            images: `[B, 3, H, W]`, or their features `[B, D]`. tokens: captions, `[B, L]`.
        """
        if images.dim() > 2:
            images, _ = self.model.image_features(images, local=False)
        return None, {"loss": mean_of_sums(*self.decoder.loss(images, tokens))}


def caption_tokens(context: int, captions: Sequence[str], step: int) -> dict[str, Tensor]:
    """Return the "tokens" `[B, L]` of a batch's captions; those too long are truncated."""
    return {"tokens": cut_to_longest(tokenize(list(captions), context, truncate=True))}
