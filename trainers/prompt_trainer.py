"""Trainers that learn only the context of the prompt, such as CoOp and LoCoOp."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from clip import ClipModel
from clip.image import collected_attention
from clip.prefix import CHUNK, encode_packed
from clip.prompted import PromptedCLIP, cosines, normalised
from clip.weights import is_weight, plain_names
from dassl.utils import InputError, load_checkpoint, load_fitting
from trainers.prompt_learner import PromptLearner
from trainers.views import KeptViews, check_views
from trainers.words import ContextTrainer

logger = logging.getLogger(__name__)


# What turns images into the features of a step.
IMAGE_HALF = ("autocast", "encode", "encoded", "parse_batch_train", "tower", "train_batches")


class PromptTrainer(ContextTrainer):
    """A trainer that learns only the context of the prompt.

    Subclasses declare `LOCAL`, True if their loss reads local features, and `ATTENTION`, True if
    it reads the attention of the regions, as FoBoR's does. They define `loss` of normalised image
    features `[B, D]`, region features `[B, N, D]` (which may be None unless LOCAL), and labels
    `[B]`.

    A step has two halves: `encode` runs the frozen image tower, and the rest never sees an image.
    Trainers that see the same images share the first half (`trainers.side_by_side`); repeated
    augmentations are encoded once, and their features kept (`trainers.views`). A subclass that
    defines anything of that half anew does neither.
    """

    LOCAL: ClassVar[bool] = False
    ATTENTION: ClassVar[bool] = False
    COPIES: ClassVar[bool] = False  # CSC starts from a copy of CTX_INIT for each class
    KEEPS_VIEWS = True
    BATCH = ("features", "regions", "label")  # entries of what `encode` returns

    @classmethod
    def redefined(cls, names: Iterable[str] = IMAGE_HALF) -> list[str]:
        """Return which of the attributes `names` the class does not have from `PromptTrainer`."""
        return [name for name in names if getattr(cls, name) is not getattr(PromptTrainer, name)]

    def build_model(self) -> None:
        cfg, settings = self.cfg, self.settings
        clip = self.load_clip()
        self.learner = learner = PromptLearner(
            self.dm.dataset.classnames,
            clip,
            n_ctx=settings.N_CTX,
            csc=settings.CSC,
            ctx_init=settings.CTX_INIT,
            position=settings.CLASS_TOKEN_POSITION,
            generator=torch.Generator().manual_seed(cfg.SEED) if cfg.SEED >= 0 else None,
            copies=self.COPIES,
        ).to(self.device)
        self.model = self.build_prompted(clip, LearnedPrompts(clip, learner, settings.TEXT_CHUNK))
        if path := cfg.MODEL.INIT_WEIGHTS:  # may be of another trainer, as FA's of CoOp
            load_fitting(learner, self.context_state(load_checkpoint(path), path), path)
        self.learn("prompt_learner", learner)

    def build_prompted(self, clip: ClipModel, prompts: LearnedPrompts) -> PromptedCLIP:
        """Build the model of the prompts, whose context has just been initialised."""
        return PromptedCLIP(clip, prompts)

    @torch.no_grad()
    def encode(self, batch: dict, local: bool, attention: bool = False) -> dict:
        """Replace the images "img" of a batch by "features" `[B, D]`, "regions" `[B, N, D]` or, if
        not `local`, None, and the regions' "attention" `[B, N]` or, unless asked, None."""
        if "img" not in batch:  # encoded before, or no image could be read
            return batch
        rest = {key: value for key, value in batch.items() if key != "img"}
        images, labels = (batch[key].to(self.device, non_blocking=True) for key in ("img", "label"))
        return {**rest, **self.encoded(*self.tower(images, local, attention)), "label": labels}

    @torch.no_grad()
    def tower(
        self, images: Tensor, local: bool, attention: bool = False
    ) -> tuple[Tensor | None, ...]:
        """Return the image tower's output for images `[B, 3, H, W]` on the trainer's device,
        unnormalised and in the tower's precision: features `[B, D]`, regions `[B, N, D]` if
        `local`, and their attention `[B, N]` if asked; else None."""
        collector = collected_attention(self.model.clip.visual) if attention else nullcontext()
        with self.autocast(), collector as collected:
            output = self.model.clip.encode_image(images, local)
        features, regions = output if local else (output, None)
        return features, regions, torch.cat(collected) if attention else None

    def encoded(self, features: Tensor, regions: Tensor | None, attention: Tensor | None) -> dict:
        """Return the entries of an encoded batch from the output of `tower`."""
        regions = None if regions is None else normalised(regions)
        return {"features": normalised(features), "regions": regions, "attention": attention}

    @cached_property
    def views(self) -> KeptViews | None:
        """Build the store of the views that epochs repeat; None if DATALOADER.VIEWS is 0."""
        return KeptViews(self) if self.cfg.DATALOADER.VIEWS else None

    def before_train(self) -> None:
        if self.cfg.DATALOADER.VIEWS:
            check_views(self)
        super().before_train()

    def train_batches(self, *needs: bool) -> Iterable[dict]:
        """Return the batches of an epoch, already encoded if its views are kept.

        Args:
            needs: whether they need regions, and attention; by default, if this trainer does.
        """
        if self.views is None:
            return super().train_batches()
        return self.views.batches(self.epoch, *(needs or (self.LOCAL, self.ATTENTION)))

    def parse_batch_train(self, batch: dict) -> tuple[Tensor | None, ...]:
        return super().parse_batch_train(self.encode(batch, self.LOCAL, self.ATTENTION))

    def parse_batch_test(self, batch: dict) -> tuple[Tensor, Tensor]:
        """Return image features `[B, D]` and labels `[B]`."""
        batch = self.encode(batch, local=False)
        return batch["features"], batch["label"]

    def model_inference(self, features: Tensor) -> Tensor:
        """Return logits `[B, C]` of image features `[B, D]`."""
        return cosines(features, self.text_features()) * self.model.scale

    def contexts(self) -> dict[str, Tensor]:
        ctx = self.learner.ctx
        names = ["shared"] if ctx.dim() == 2 else self.dm.dataset.classnames
        return dict(zip(names, ctx.view(len(names), -1, ctx.shape[-1]), strict=True))  # [M, W] each

    def checkpoint_file(
        self, directory: str | os.PathLike, name: str, epoch: int | None = None
    ) -> Path:
        """Return the file of a context; published files of whole models are found, too: FoBoR's
        in the folder `model`, and FA's model.pth."""
        folder = Path(directory)
        if not (folder / name).is_dir():
            if (folder / "model").is_dir():
                name = "model"
            elif epoch is None and (folder / "model.pth").is_file():
                return folder / "model.pth"
        return super().checkpoint_file(folder, name, epoch)

    def context_state(self, checkpoint: dict, path: str | Path) -> dict[str, Tensor]:
        """Return the learner's entries of a checkpoint; InputError if its context does not fit."""
        # Other training code writes module.ctx, no "state_dict", or a whole model.
        named, prefix = plain_names(checkpoint, path), "prompt_learner."
        state = {n.removeprefix(prefix): x for n, x in named.items() if n.startswith(prefix)}
        state = state or named
        ctx = state.get("ctx")
        if ctx is None or not is_weight(ctx) or ctx.dim() not in (2, 3) or not ctx.isfinite().all():
            raise InputError(
                f"{path} holds no finite context vectors: its state_dict/ctx must be a dense "
                "floating-point tensor of [tokens, width] or [classes, tokens, width]. Name "
                "another checkpoint"
            )
        expected = self.learner.ctx.shape
        if ctx.shape != expected:
            raise InputError(
                f"{path} does not fit the model: it holds {_describe(ctx.shape)}, the config asks "
                f"for {_describe(expected)}. Set TRAINER.{self.CONFIG_KEY}.N_CTX, .CSC and "
                ".CTX_INIT (or --backbone, or the classes) as they were in training"
            )
        return state

    def check_checkpoint(self, checkpoint: dict, path: Path) -> None:
        """Refuse a context that was learned for another configuration.

        A shared context may be used for other classes, with a warning.
        """
        checkpoint["state_dict"] = self.context_state(checkpoint, path)
        super().check_checkpoint(checkpoint, path)
        message = self._mismatch(checkpoint, path, "classnames_hash")
        if message and self.settings.CSC:
            raise InputError(f"{message}: use it with the classes it was trained on")
        if message:
            logger.warning("%s: its shared context is used for other classes", message)


class LearnedPrompts(torch.nn.Module):
    """Encode the learned prompts, at most `chunk` tokens at once."""

    def __init__(self, clip: ClipModel, learner: PromptLearner, chunk: int = CHUNK):
        super().__init__()
        # A tuple, so that the CLIP is not registered a second time.
        self._clip, self.learner, self.chunk = (clip,), learner, chunk

    def forward(self, ctx: Tensor | None = None, recompute: bool = False) -> Tensor:
        """Return unnormalised text features `[C, D]`, with the context `ctx` or the learner's own.

        Args:
            recompute: encode once more in the backward pass, to hold no activations until then.
        """
        # Only training steps enable gradients, and all ranks take these together.
        over_ranks = torch.is_grad_enabled()
        packed = self.learner.packed(ctx)
        return encode_packed(self._clip[0], *packed, self.chunk, over_ranks, recompute)


def _describe(shape: torch.Size) -> str:
    *classes, n_ctx, width = shape
    contexts = f"one context for each of {classes[0]} classes" if classes else "a shared context"
    return f"{contexts} of {n_ctx} tokens, {width} wide"
