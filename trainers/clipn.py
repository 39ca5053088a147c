"""CLIPN: a second text encoder learns to say "no" from pairs of images and captions."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from yacs.config import CfgNode

from clip import NoTextEncoder, build_no_encoder, encode, tokenize
from clip.loading import weights_hash
from clip.negation import draw
from clip.prompted import TwoBranchCLIP, exact
from clip.templates import fill, template_pairs
from clip.tokenizer import CONTEXT_LENGTH
from dassl.distributed import gather_with_grad, rank, world_size
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.base import model_file
from dassl.optim import build_optimizer
from dassl.utils.errors import InputError
from datasets.captions import PairsLoader, build_pairs_loader
from trainers.base import ClipTrainer

logger = logging.getLogger(__name__)

ADAM_EPS = 1e-6  # published; the config, as Dassl's, has no key for it


@TRAINER_REGISTRY.register()
class CLIPN(ClipTrainer):
    """Teaching CLIP to say no (Wang et al., ICCV 2023).

    Only the "no" text encoder learns. Every step needs the whole batch of pairs, as each caption
    is held against each image; MICRO_BATCH bounds the memory without changing the gradient.

    Differs from upstream: one process trains too; the loss is finite at any logit; the prompts
    drawn depend on SEED and the step alone; captions are tokenised as OpenAI's code does it.
    """

    CONFIG_KEY = "CLIPN"
    CONFIG = CfgNode(
        {
            "PREC": "amp",  # fp32, amp, amp_bf16 or fp16 (frozen towers in float16)
            "VARIANT": "learnable",  # or handcrafted, see clip.negation
            # Of the classifier: imagenet80, published (the 128 of CLIPN's code, with their stray
            # quotes), or templates with {}, separated by "|". Handcrafted: of the captions too.
            "TEMPLATE": "imagenet80",
            "LOSS_WEIGHT": 0.5,  # of the sum of the three losses; 1.0 in the paper
            "WARMUP_STEPS": 0,
            "MICRO_BATCH": 0,  # pairs encoded at a time; 0: the whole batch
        }
    )
    FLAGS: ClassVar = {"variant": "VARIANT", "template": "TEMPLATE"}
    SCORE = "ATD"
    READS_PAIRS = True
    # The "no" text encoder fits any class list.
    MUST_MATCH = ("activation", "weights_hash", "variant")

    def check_cfg(self, cfg: CfgNode) -> None:
        if cfg.TRAINER.CLIPN.MICRO_BATCH < 0:
            raise InputError(
                f"TRAINER.CLIPN.MICRO_BATCH is {cfg.TRAINER.CLIPN.MICRO_BATCH}: the pairs encoded "
                "at a time must be 1 or more; 0 is the whole batch"
            )

    def build_model(self) -> None:
        cfg, settings = self.cfg, self.settings
        clip = self.load_clip()
        self.pairs = template_pairs(settings.TEMPLATE)
        encoder = build_no_encoder(clip, settings.VARIANT, cfg.MODEL.INIT_WEIGHTS).to(self.device)
        self.model = TwoBranchCLIP(clip, encoder, self.dm.dataset.classnames, self.pairs)
        self.optim = build_optimizer(encoder, cfg.OPTIM, param_groups(encoder, cfg.OPTIM))
        self.sched = LambdaLR(self.optim, self.learning_rate)
        self.register_model("no_encoder", encoder, self.optim, self.sched)
        self.too_long = 0
        self.ready_to_train()

    @property
    def encoder(self) -> NoTextEncoder:
        return self._models["no_encoder"]

    @property
    def step(self) -> int:
        """Steps made, those before a resumption included."""
        return self.sched.last_epoch

    def learning_rate(self, step: int) -> float:
        """Share of LR in a step: linear warm-up over WARMUP_STEPS, then a cosine to 0."""
        warmup = self.settings.WARMUP_STEPS
        if step < warmup:
            return (step + 1) / warmup
        if step == warmup:
            return 1.0  # without asking for the training data, which an evaluation has none of
        total = self.cfg.OPTIM.MAX_EPOCH * len(self.train_loader_x)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))

    # Data

    @cached_property
    def train_loader_x(self) -> PairsLoader:
        return self.build_caption_loader()

    def build_caption_loader(self) -> PairsLoader:
        """Batches of DATASET.PAIRS: "img" `[B, 3, H, W]` and "caption", a list of B texts."""
        if self.cfg.DATASET.PAIRS.SOURCE == "classnames":
            logger.warning(
                "Captions are made from class names: this is not the paper's setting (CC3M), and "
                "its figures cannot be compared with CLIPN's"
            )
        return build_pairs_loader(self.cfg, self.dm.tfm_train)

    def record_split(self) -> None:
        """Only captions made from class names are of the ID dataset's images."""
        if self.cfg.DATASET.PAIRS.SOURCE == "classnames":
            super().record_split()

    def parse_batch_train(self, batch: dict) -> tuple[Tensor, list[str]]:
        return batch["img"].to(self.device, non_blocking=True), batch["caption"]

    def texts(self, captions: Sequence[str]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens of the standard and of the "no" branch `[B, 77]`, and the prompts drawn `[B]`."""
        learnable = self.encoder.variant == "learnable"
        choices = self.draw(
            len(captions), self.encoder.num_choices if learnable else len(self.pairs)
        )
        if learnable:
            tokens = self.tokenize(captions)
            return tokens, tokens, choices.to(self.device)
        wordings = [
            [fill(template, caption) for template in self.pairs[i]]
            for caption, i in zip(captions, choices.tolist(), strict=True)
        ]
        standard, denied = zip(*wordings, strict=True)
        return self.tokenize(standard), self.tokenize(denied), None

    def draw(self, count: int, choices: int) -> Tensor:
        """This process's `count` of the random integers below `choices` that the step draws."""
        total, first = share(count)
        return draw(total, choices, self.cfg.SEED, self.step)[first : first + count]

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids `[T, 77]`; texts that do not fit are cut, and counted for the log."""
        tokens = tokenize(list(texts), truncate=True)
        full = (tokens[:, -1] != 0).nonzero().flatten().tolist()
        self.too_long += sum(len(encode(texts[i])) + 2 > CONTEXT_LENGTH for i in full)
        return tokens.to(self.device)

    def after_epoch(self) -> None:
        super().after_epoch()
        if self.too_long:
            logger.info(
                "Epoch %d: %d texts were longer than %d tokens and were cut",
                self.epoch + 1,
                self.too_long,
                CONTEXT_LENGTH,
            )
        self.too_long = 0

    # A step

    def forward_backward(self, batch: dict) -> dict[str, float]:
        """One step on a batch of pairs."""
        images, captions = self.parse_batch_train(batch)
        standard, denied, choices = self.texts(captions)
        features, text = self.frozen_features(images, standard)
        self.model_zero_grad()
        summary = self.backward_in_parts(features, text, denied, choices)
        self.update()
        self.encoder.clamp_scale()
        self.update_lr()
        return {name: value.item() for name, value in summary.items()}

    def memory_settings(self) -> dict[str, object]:
        size = self.cfg.DATALOADER.TRAIN_X.BATCH_SIZE // world_size()
        return {"TRAINER.CLIPN.MICRO_BATCH": self.part_size(size)}

    @torch.no_grad()
    def frozen_features(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised features `[B, D]` of images and texts by the towers that do not learn."""
        size, clip = self.part_size(len(images)), self.model.clip
        with self.autocast():
            features = torch.cat(
                [normalised(clip.encode_image(part)) for part in images.split(size)]
            )
            text = torch.cat([normalised(clip.encode_text(part)) for part in tokens.split(size)])
        return features, text

    def no_features(self, tokens: Tensor, choices: Tensor | None) -> Tensor:
        """Normalised "no" features `[T, D]`."""
        with self.autocast():
            return normalised(self.encoder(tokens, choices))

    def backward_in_parts(
        self, features: Tensor, text: Tensor, denied: Tensor, choices: Tensor | None
    ) -> dict[str, Tensor]:
        """Add the gradients of the batch's loss; the named parts of the loss, the total as "loss".

        With MICRO_BATCH: all "no" features first, without a graph; the gradient of the loss with
        respect to them; then part by part the same features again, with a graph, backward from
        their share of that gradient. The chain rule, so exact (Gao et al., RepL4NLP 2021).
        """
        size = self.part_size(len(denied))
        parts = [
            (denied[i : i + size], None if choices is None else choices[i : i + size])
            for i in range(0, len(denied), size)
        ]
        if len(parts) == 1:
            summary = self.losses(features, text, self.no_features(*parts[0]))
            self.backward(summary["loss"])
            return summary
        with torch.no_grad():
            negation = torch.cat([self.no_features(*part) for part in parts])
        summary = self.losses(features, text, negation.requires_grad_())
        self.backward(summary["loss"])
        for part, gradient in zip(parts, negation.grad.split(size), strict=True):
            self.no_features(*part).backward(gradient)
        return summary

    def losses(self, features: Tensor, text: Tensor, negation: Tensor) -> dict[str, Tensor]:
        """The three losses of normalised features `[B, D]`, and the "loss" they make."""
        with exact(features):
            bin_yes, bin_no, tso = clipn_losses(
                *map(gather_with_grad, (features, text, negation)), self.model.scale
            )
        total = self.settings.LOSS_WEIGHT * (bin_yes + bin_no + tso)
        return {"loss": total, "bin_yes": bin_yes, "bin_no": bin_no, "tso": tso}

    def part_size(self, count: int) -> int:
        return self.settings.MICRO_BATCH or count

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        super().load_model(directory, epoch)
        if directory:
            self._loaded_from = str(model_file(Path(directory, "no_encoder"), epoch))

    def checkpoint_meta(self) -> dict[str, str | int]:
        return {**super().checkpoint_meta(), "variant": self.encoder.variant}

    def provenance(self) -> dict[str, object]:
        hash_ = weights_hash(self.encoder.state_dict())
        file = self._loaded_from or self.cfg.MODEL.INIT_WEIGHTS or self.model.clip.name
        facts = super().provenance() | {"no_encoder": {"file": file, "hash": hash_}}
        facts["comparable"]["training"]["pairs"] = dict(self.cfg.DATASET.PAIRS)
        if self._loaded_from is None:  # not one of the seeds of a training: a model of its own
            facts["comparable"]["no_encoder"] = hash_
        return facts


def clipn_losses(
    images: Tensor, text: Tensor, negation: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """CLIPN's losses of n pairs, from normalised features `[n, D]`.

    With `p_ij = sigmoid(scale (f_i . g_j - f_i . t_j))`, the probability that caption j does not
    fit image i, the image-text binary-opposite loss has the parts
    `bin_yes = -mean_i log(1 - p_ii)` and `bin_no = -mean_{i != j} log p_ij` (0 for a single pair,
    which has no j); the text semantic-opposite loss is
    `tso = mean_i (2 - sqrt(2 - 2 t_i . g_i + 1e-4))`.

    Differs from upstream: log-sigmoid where the public code takes the logarithm of a probability,
    which in float32 is infinite from a logit gap of 104.
    """
    gap = scale * (images @ negation.T - images @ text.T)  # [n, n], log-odds of p
    others = ~torch.eye(len(gap), dtype=torch.bool, device=gap.device)
    bin_yes = -F.logsigmoid(-gap.diagonal()).mean()
    bin_no = -F.logsigmoid(gap[others]).sum() / max(1, len(gap) * (len(gap) - 1))
    tso = (2 - (2 - 2 * (text * negation).sum(dim=-1) + 1e-4).sqrt()).mean()
    return bin_yes, bin_no, tso


def param_groups(encoder: nn.Module, optim: CfgNode) -> list[dict]:
    """CLIPN's parameter groups: vectors and scalars (biases, LayerNorms) are not decayed; the
    embeddings, the projection and the learnable prompts are."""
    parameters = list(encoder.parameters())
    return [
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0, "eps": ADAM_EPS},
        {
            "params": [p for p in parameters if p.ndim >= 2],
            "weight_decay": optim.WEIGHT_DECAY,
            "eps": ADAM_EPS,
        },
    ]


def normalised(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1)


def share(count: int) -> tuple[int, int]:
    """Size of the step's whole batch, and where this process's `count` of it begin."""
    return count * world_size(), count * rank()
