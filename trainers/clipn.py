"""CLIPN: a second text encoder that learns to say "no" from image-caption pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import repeat
from math import inf
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from yacs.config import CfgNode

from clip import NoTextEncoder, build_no_encoder, tokenize
from clip.negation import CHOICES, MAX_LOGIT_SCALE, draw
from clip.prompted import TwoBranchCLIP, exact, normalised
from clip.templates import Pair, fill, template_pairs
from clip.tokenizer import cut_to_longest
from dassl.distributed import gather_with_grad, rank, world_size
from dassl.engine import TRAINER_REGISTRY
from datasets.captions import PairsLoader, as_bytes, from_bytes
from trainers.pairs import PairTrainer

ADAM_EPS = 1e-6  # as published; Dassl's config has no key for it


@TRAINER_REGISTRY.register()
class CLIPN(PairTrainer):
    """Teaching CLIP to say no (Wang et al., ICCV 2023).

    Only the "no" text encoder learns. A step needs the whole batch of pairs, as it compares each
    caption with each image; MICRO_BATCH bounds the memory without changing the gradient.

    Differs from upstream: one process trains too; the loss is finite at any logit; the drawn
    prompts depend only on SEED and the step; captions are tokenised as in OpenAI's code.
    """

    CONFIG_KEY = "CLIPN"
    CONFIG = CfgNode(
        {
            "PREC": "amp",  # fp32, tf32, amp, amp_bf16 or fp16 (frozen towers in float16)
            "VARIANT": "learnable",  # or handcrafted, see clip.negation
            # The classifier's templates (clip.templates); handcrafted: the captions', too.
            "TEMPLATE": "imagenet80",
            "LOSS_WEIGHT": 0.5,  # factor on the sum of the three losses; 1.0 in the paper
            "WARMUP_STEPS": 0,
            "MICRO_BATCH": 0,  # pairs encoded at once; 0 for the whole batch
        }
    )
    FLAGS: ClassVar = {"variant": "VARIANT", "template": "TEMPLATE"}
    SCORE = "ATD"
    RANGES: ClassVar = {key: (0, inf) for key in ("LOSS_WEIGHT", "WARMUP_STEPS", "MICRO_BATCH")}
    INCIDENTAL = ("MICRO_BATCH",)
    MAY_DIFFER = ("TEMPLATE",)
    WEIGHTS = ("LOSS_WEIGHT",)
    BATCH = ("img", "tokens", "denied", "choices")  # the handcrafted variant has no choices
    # The "no" text encoder fits any class list.
    MUST_MATCH = ("activation", "weights_hash", "variant")

    def build_model(self) -> None:
        cfg, settings = self.cfg, self.settings
        clip = self.load_clip()
        self.pairs = template_pairs(settings.TEMPLATE)
        encoder = build_no_encoder(clip, settings.VARIANT, cfg.MODEL.INIT_WEIGHTS).to(self.device)
        self.encoder: NoTextEncoder = encoder
        self.model = TwoBranchCLIP(clip, encoder, self.dm.dataset.classnames, self.pairs)
        self.learn("no_encoder", encoder, param_groups(encoder, cfg.OPTIM))

    # Data

    @cached_property
    def train_loader_x(self) -> PairsLoader:
        """Build the loader of DATASET.PAIRS; `loss` describes its batches."""
        return self.pairs_loader(as_bytes(self.dm.tfm_train), texts=self.texts())

    def texts(self) -> BranchTexts:
        """Return the function that makes the texts of a batch in the loader's workers."""
        pairs = None if self.encoder.variant == "learnable" else self.pairs
        context = self.encoder.context_length
        return BranchTexts(pairs, self.cfg.SEED, rank(), world_size(), context)

    @cached_property
    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Return the pixels' mean and standard deviation, `[3, 1, 1]` each."""
        values = self.dm.tfm_test.mean, self.dm.tfm_test.std
        return tuple(torch.tensor(x, device=self.device).view(3, 1, 1) for x in values)

    # A step

    def forward_backward(self, batch: dict) -> dict[str, float]:
        numbers = super().forward_backward(batch)
        # As in CLIP's training, the scale stays in [1, 100] after every step.
        self.encoder.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        return numbers

    def loss(
        self, images: Tensor, tokens: Tensor, denied: Tensor, choices: Tensor | None
    ) -> tuple[None, dict[str, Tensor]]:
        """Return the three losses of a batch of pairs, and their weighted sum "loss".

        Args:
            images: `[B, 3, H, W]`, possibly uint8.
            tokens, denied: captions for CLIP's and for the "no" text encoder, `[B, L]`.
            choices: numbers of the drawn prompts, `[B]`; None in the handcrafted variant.
        """
        frozen = self.frozen_features(images, tokens)
        return None, self.losses(*frozen, self.no_features(denied, choices))

    def memory_settings(self) -> dict[str, object]:
        size = self.cfg.DATALOADER.TRAIN_X.BATCH_SIZE // world_size()
        return {"TRAINER.CLIPN.MICRO_BATCH": self.part_size(size)}

    @torch.no_grad()
    def frozen_features(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised features `[B, D]` of images and texts from the frozen towers."""
        size, clip = self.part_size(len(images)), self.model.clip
        features = [clip.encode_image(self.floats(part)) for part in images.split(size)]
        text = [clip.encode_text(part) for part in tokens.split(size)]
        return normalised(torch.cat(features)), normalised(torch.cat(text))

    def floats(self, images: Tensor) -> Tensor:
        """Return images `[B, 3, H, W]` as the tower reads them: uint8 ones are normalised."""
        return from_bytes(images, *self.mean_and_std) if images.dtype == torch.uint8 else images

    def no_features(self, tokens: Tensor, choices: Tensor | None) -> Tensor:
        """Return normalised "no" features `[T, D]`.

        With MICRO_BATCH, parts of the batch are encoded one after the other, and once more in the
        backward pass, so that memory holds the graph of one part only. The gradient is exact, as
        the loss needs nothing but the features.
        """
        size, encode = self.part_size(len(tokens)), self.encoder
        if size < len(tokens):
            # Nothing in the tower is random, so the generators' state need not be restored.
            encode = partial(checkpoint, encode, use_reentrant=False, preserve_rng_state=False)
        drawn = repeat(None) if choices is None else choices.split(size)
        return normalised(torch.cat([*map(encode, tokens.split(size), drawn)]))

    def losses(self, features: Tensor, text: Tensor, negation: Tensor) -> dict[str, Tensor]:
        """Return the entries of `loss` from normalised features `[B, D]`."""
        with exact(features):
            bin_yes, bin_no, tso = clipn_losses(
                *map(gather_with_grad, (features, text, negation)), self.model.scale
            )
        total = self.settings.LOSS_WEIGHT * (bin_yes + bin_no + tso)
        return {"loss": total, "bin_yes": bin_yes, "bin_no": bin_no, "tso": tso}

    def part_size(self, count: int) -> int:
        return self.settings.MICRO_BATCH or count

    def checkpoint_meta(self) -> dict[str, str | int]:
        return {**super().checkpoint_meta(), "variant": self.encoder.variant}

    def provenance(self) -> dict[str, object]:
        facts = super().provenance()
        if self._loaded_from is None:  # not a run's model: only the same weights are comparable
            facts["comparable"]["no_encoder"] = facts["no_encoder"]["hash"]
        return facts


@dataclass(frozen=True)
class BranchTexts:
    """Make the texts of a batch of captions for both branches of CLIPN.

    The loader's workers call it, so that the trainer receives tokens. Which prompt or pair of
    templates a caption gets is a function of seed and step.

    Attributes:
        pairs: templates of the handcrafted variant; None for the learnable one.
        rank, ranks: this process's number, and how many there are: they share a batch's draw.
        context: the largest number of tokens that the text towers read.
    """

    pairs: Sequence[Pair] | None
    seed: int
    rank: int
    ranks: int
    context: int

    def __call__(self, captions: Sequence[str], step: int) -> dict[str, Tensor | int]:
        """Return "tokens" and "denied" `[B, L]`, and "choices" `[B]` if learnable.

        Texts that are too long are truncated.
        """
        count = len(captions)
        choices = CHOICES if self.pairs is None else len(self.pairs)
        drawn = draw(count * self.ranks, choices, self.seed, step)
        drawn = drawn[count * self.rank : count * (self.rank + 1)]
        if self.pairs is None:
            tokens = self._tokens(captions)
            return {"tokens": tokens, "denied": tokens, "choices": drawn}
        standard, denied = zip(*(self.pairs[i] for i in drawn.tolist()), strict=True)  # templates
        return {
            "tokens": self._tokens(map(fill, standard, captions)),
            "denied": self._tokens(map(fill, denied, captions)),
        }

    def _tokens(self, texts: Iterable[str]) -> Tensor:
        return cut_to_longest(tokenize(list(texts), self.context, truncate=True))


def clipn_losses(
    images: Tensor, text: Tensor, negation: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return CLIPN's losses bin_yes, bin_no and tso of n pairs, from normalised features `[n, D]`.

    Let `p_ij = sigmoid(scale (f_i . g_j - f_i . t_j))` be the probability that caption j does not
    fit image i. The image-text binary-opposite loss has the parts
    `bin_yes = -mean_i log(1 - p_ii)` and `bin_no = -mean_{i != j} log p_ij` (0 for a single pair);
    the text semantic-opposite loss is `tso = mean_i (2 - sqrt(2 - 2 t_i . g_i + 1e-4))`.

    Differs from upstream: log-sigmoid, where the public code takes the logarithm of a probability,
    which in float32 is infinite from a logit gap of 104.
    """
    gap = scale * (images @ negation.T - images @ text.T)  # [n, n], log-odds of p
    same = torch.eye(len(gap), dtype=torch.bool, device=gap.device)
    bin_yes = -F.logsigmoid(-gap.diagonal()).mean()
    # Masking instead of selecting, which would make the host wait for the device.
    others = F.logsigmoid(gap).masked_fill(same, 0)
    bin_no = -others.sum() / max(1, len(gap) * (len(gap) - 1))
    tso = (2 - (2 - 2 * (text * negation).sum(dim=-1) + 1e-4).sqrt()).mean()
    return bin_yes, bin_no, tso


def param_groups(encoder: nn.Module, optim: CfgNode) -> list[dict]:
    """Return CLIPN's parameter groups.

    Weight decay applies to matrices, embeddings and the learnable prompts, but not to vectors and
    scalars (biases, LayerNorms).
    """
    vectors = [p for p in encoder.parameters() if p.ndim < 2]
    matrices = [p for p in encoder.parameters() if p.ndim >= 2]
    return [
        {"params": vectors, "weight_decay": 0.0, "eps": ADAM_EPS},
        {"params": matrices, "weight_decay": optim.WEIGHT_DECAY, "eps": ADAM_EPS},
    ]
