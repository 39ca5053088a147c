"""ZOC: a caption decoder on CLIP's image features suggests what else an image may show."""

from collections.abc import Sequence
from functools import cached_property, partial

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

LOWEST = {"STEPS": 1, "TOP": 1, "WARMUP_STEPS": 0}


@TRAINER_REGISTRY.register()
class ZOC(PairTrainer):
    """Zero-shot OOD detection by captions (Esmaeilpour et al., AAAI 2022).

    Only the caption decoder learns: cross entropy of the next token of each caption. Images are
    not augmented, so those that are files are encoded once, and their features kept.

    Differs from upstream: the decoder is a copy of CLIP's text transformer and reads normalised
    features; it writes as it was trained, with positions and a causal mask (there without).
    """

    CONFIG_KEY = "ZOC"
    CONFIG = CfgNode(
        {
            "PREC": "amp",  # fp32, tf32, amp, amp_bf16 or fp16 (frozen towers in float16)
            "TEMPLATE": "This is a photo of a {}",  # of classes and candidates
            "STEPS": 9,  # tokens of the greedy caption of an image; 10 in the paper's text
            "TOP": 35,  # most probable tokens of each step: its candidates
            "WARMUP_STEPS": 500,
        }
    )
    SCORE = "ZOC"
    BATCH = ("img", "tokens")

    def check_cfg(self, cfg: CfgNode) -> None:
        own = cfg.TRAINER.ZOC
        if own.TEMPLATE.count("{}") != 1:
            raise InputError(
                f"TRAINER.ZOC.TEMPLATE is {own.TEMPLATE!r}: it must hold {{}} once, where the name "
                "of a class or candidate goes"
            )
        for key, low in LOWEST.items():
            if own[key] < low:
                raise InputError(f"TRAINER.ZOC.{key} is {own[key]}, it must be at least {low}")

    def build_model(self) -> None:
        cfg, own, clip = self.cfg, self.settings, self.load_clip()
        if clip.context_length < own.STEPS:
            raise InputError(
                f"TRAINER.ZOC.STEPS is {own.STEPS}: the text tower of {clip.name}, which the "
                f"decoder starts from, reads {clip.context_length} tokens at most"
            )
        text = classifier(clip, self.dm.dataset.classnames, [own.TEMPLATE])
        self.decoder = CaptionDecoder(clip).to(self.device)
        if cfg.MODEL.INIT_WEIGHTS:
            load_pretrained_weights(self.decoder, cfg.MODEL.INIT_WEIGHTS)
        self.model = PromptedCLIP(clip, lambda: text)
        captioner = Captioner(self.decoder, own.STEPS, own.TOP, own.TEMPLATE)
        self.model.captioner = captioner.to(self.device)
        self.learn("decoder", self.decoder)

    @cached_property
    def train_loader_x(self) -> PairsLoader:
        """Build the loader of DATASET.PAIRS, of features where the images are files."""
        texts = partial(caption_tokens, self.model.clip.context_length)
        return self.pairs_loader(self.dm.tfm_test, texts=texts, encode=self.encode)

    def encode(self, paths: Sequence[str]) -> dict[str, Tensor]:
        """Return path -> normalised features `[D]` of those images that can be read."""
        # Of a pair that cannot be read the loader takes another.
        found = features_by_path(self, {"pairs": [Datum(path) for path in paths]}, skip_bad=True)
        return {path: torch.from_numpy(row) for path, row in found.items()}

    def loss(self, images: Tensor, tokens: Tensor) -> tuple[None, dict[str, Tensor]]:
        """Return the mean over the tokens of all ranks.

        Args:
            images: `[B, 3, H, W]`, or their features `[B, D]`. tokens: captions, `[B, L]`.
        """
        if images.dim() > 2:
            images, _ = self.model.image_features(images, local=False)
        return None, {"loss": mean_of_sums(*self.decoder.loss(images, tokens))}


def caption_tokens(context: int, captions: Sequence[str], step: int) -> dict[str, Tensor]:
    """Return the "tokens" `[B, L]` of a batch's captions; those that do not fit are cut."""
    return {"tokens": cut_to_longest(tokenize(list(captions), context, truncate=True))}
