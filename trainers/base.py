"""What all CLIP trainers share: loading, precision, one way to step, one way to be scored."""

from __future__ import annotations

import logging
import os
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from yacs.config import CfgNode

from clip import ClipModel, load, resolve_precision, weights_hash
from dassl import distributed
from dassl.data import DataManager
from dassl.engine import TrainerX
from dassl.metrics import compute_accuracy
from dassl.utils import set_random_seed, versions
from dassl.utils.errors import InputError
from datasets.classnames import classnames_hash
from datasets.fewshot import split_record, write_split
from run.folder import CHUNKS

logger = logging.getLogger(__name__)

IMAGE_PACKAGES = ("torch", "torchvision", "open_clip_torch", "pillow")  # that decode and encode


class ClipTrainer(TrainerX):
    """A Dassl trainer around a frozen CLIP.

    Subclasses declare
        CONFIG: their node of the config, with its defaults; it lands at
            TRAINER.<CONFIG_KEY>.
        FLAGS: command-line flags of their own, flag -> key of that node.
        MUST_MATCH: entries of a checkpoint's meta that must be the config's.
        LEARNS: False where there is nothing to train, so shots and seed change nothing.
        READS_PAIRS: True where it learns from the image-caption pairs of DATASET.PAIRS.
        SCORE: the one its paper stands for, which a detector uses unless told otherwise.
    and build `self.model`, a `PromptedCLIP`.
    """

    CONFIG_KEY: str
    CONFIG: CfgNode
    FLAGS: ClassVar[dict[str, str]] = {}
    MUST_MATCH: tuple[str, ...] = ("activation", "weights_hash")
    LEARNS = True
    READS_PAIRS = False
    SCORE = "MCM"
    scaler: torch.amp.GradScaler | None = None
    _text: Tensor | None = None
    _loaded_from: str | None = None

    def __init__(
        self, cfg: CfgNode, beside: ClipTrainer | None = None, images: bool = True
    ) -> None:
        """`beside`: a trainer of the same data and the same CLIP, which are then shared.

        `images` False: the classes have their names and no images, so that nothing of the data
        set need be there (`DatasetBase.without_images`); there is no ID image to train or test on.
        """
        self._beside, self._images = beside, images
        super().__init__(cfg)
        self._beside = None

    def build_data_manager(self) -> DataManager:
        if self._beside is None:
            return DataManager(self.cfg, images=self._images)
        if self.cfg.VERBOSE:
            self._beside.dm.show_dataset_summary(self.cfg)
        return self._beside.dm

    @property
    def settings(self) -> CfgNode:
        """This trainer's own node of the config."""
        return self.cfg.TRAINER[self.CONFIG_KEY]

    def load_clip(self) -> ClipModel:
        """The frozen CLIP of the config, on the trainer's device."""
        cfg = self.cfg
        logger.info("Loading CLIP (backbone: %s)", cfg.MODEL.BACKBONE.NAME)
        self.precision = resolve_precision(self.settings.PREC, self.device)
        if self._beside is not None:
            return self._beside.model.clip
        model, _ = load(
            cfg.MODEL.BACKBONE.NAME,
            self.device,
            self.precision.name,
            cfg.MODEL.BACKBONE.ACTIVATION or None,
        )
        self._check_input(model)
        return model

    def _check_input(self, model: ClipModel) -> None:
        """The images must be what the model was trained on: size, mean, std, interpolation."""
        given = self.cfg.INPUT
        asked = (
            tuple(given.SIZE),
            given.INTERPOLATION,
            *map(_rounded, (given.PIXEL_MEAN, given.PIXEL_STD)),
        )
        found = (
            (model.image_size,) * 2,
            model.interpolation,
            *map(_rounded, (model.mean, model.std)),
        )
        keys = ("INPUT.SIZE", "INPUT.INTERPOLATION", "INPUT.PIXEL_MEAN", "INPUT.PIXEL_STD")
        wrong = [
            f"{key} is {a}, the model wants {f}"
            for key, a, f in zip(keys, asked, found, strict=True)
            if a != f
        ]
        if wrong:
            raise InputError(
                f"the images would not be what {model.name} was trained on: {'; '.join(wrong)}. "
                "Set these keys in the trainer's YAML or behind the command"
            )

    def precision_in_use(self) -> str:
        """A CPU computes in float32 where float16 was asked for."""
        return self.precision.name

    def ready_to_train(self) -> None:
        """What `build_model` ends with."""
        if self.precision.needs_scaler:
            self.scaler = torch.amp.GradScaler(self.device.type)
        if self.cfg.SEED >= 0:
            # Building a model draws random numbers, how many depends on where its
            # weights come from. The order of the images must not.
            set_random_seed(self.cfg.SEED)

    def before_train(self) -> None:
        """Resume if there is something to resume, and record which images are trained on."""
        super().before_train()
        self.record_split()

    def record_split(self) -> None:
        """Write down which images of the ID dataset are trained on, and which were held out."""
        cfg, data = self.cfg, self.dm.dataset
        record = split_record(
            data.train_x,
            cfg.DATASET.ROOT,
            cfg.DATASET.NUM_SHOTS,
            cfg.SEED,
            getattr(data, "held_out", ()),
        )
        if distributed.is_main():
            write_split(Path(self.output_dir, "split.json"), record)

    def checkpoint_meta(self) -> dict[str, str | int]:
        """What a checkpoint must fit to be used again."""
        clip = self.model.clip
        names = self.dm.dataset.classnames
        return {
            "trainer": type(self).__name__,
            "backbone": clip.name,
            "activation": clip.activation,
            "weights_hash": clip.weights_hash,
            "classnames_hash": classnames_hash(names),
            "num_classes": len(names),
        }

    def check_checkpoint(self, checkpoint: dict, path: Path) -> None:
        """Refuse a checkpoint of another CLIP."""
        for key in self.MUST_MATCH:
            if message := self._mismatch(checkpoint, path, key):
                raise InputError(f"{message}: use it with the model it was trained on")

    def _mismatch(self, checkpoint: dict, path: Path, key: str) -> str:
        """How an entry of the checkpoint's meta differs from the config's; "" if it does not.

        Published files have no meta: of them nothing can be checked.
        """
        theirs, ours = checkpoint.get("meta") or {}, self.checkpoint_meta()
        if key not in theirs or theirs[key] == ours[key]:
            return ""
        return (
            f"{path} was trained with {key} {theirs[key]} ({theirs.get('backbone')}, "
            f"{theirs.get('num_classes')} classes), the config gives {ours[key]} "
            f"({ours['backbone']}, {ours['num_classes']} classes)"
        )

    def provenance(self) -> dict[str, object]:
        """All that could change this model's figures, for a results file.

        "comparable" holds what must be equal in runs whose figures are averaged.
        """
        cfg, names = self.cfg, self.dm.dataset.classnames
        clip = self.model.clip
        settings = {key: value for key, value in self.settings.items() if key not in CHUNKS}
        training = {
            "shots": cfg.DATASET.NUM_SHOTS,
            "optim": dict(cfg.OPTIM),
            "batch_size": cfg.DATALOADER.TRAIN_X.BATCH_SIZE,
            "transforms": list(cfg.INPUT.TRANSFORMS),
            "init_weights": cfg.MODEL.INIT_WEIGHTS,
        }
        return {
            "comparable": {
                "trainer": type(self).__name__,
                "settings": settings,
                "training": training if self.get_model_names() else None,
                "weights_hash": clip.weights_hash,
                "activation": clip.activation,
                "precision": self.precision.name,
                "dataset": cfg.DATASET.NAME,
                "folder": os.path.basename(cfg.DATASET.FOLDER),
                "classnames_hash": classnames_hash(names),
                "num_classes": len(names),
                "transform": {
                    "size": list(cfg.INPUT.SIZE),
                    "interpolation": cfg.INPUT.INTERPOLATION,
                    "mean": list(cfg.INPUT.PIXEL_MEAN),
                    "std": list(cfg.INPUT.PIXEL_STD),
                },
            },
            "backbone": clip.name,
            "seed": cfg.SEED,
            "logit_scale": float(self.model.scale),
            "device": str(self.device),
        }

    def image_encoding(self) -> dict[str, object]:
        """All that could change the features of an image file, whatever the prompts are."""
        clip = self.model.clip
        return {
            "weights": weights_hash(clip.visual.state_dict()),
            "activation": clip.activation,
            "precision": self.precision.name,
            "device": self.device.type,
            "transform": str(self.dm.tfm_test),
            "versions": {name: versions()[name] for name in IMAGE_PACKAGES},
        }

    def forward_backward(self, batch: dict) -> dict[str, float]:
        """One step of SGD: the same code with and without mixed precision."""
        *inputs, labels = self.parse_batch_train(batch)
        with self.autocast():
            cosines, summary = self.loss(*inputs, labels)
        self._backward_and_update(summary["loss"])
        summary["acc"] = distributed.mean_over_ranks(compute_accuracy(cosines, labels)[0])
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {name: value.item() for name, value in summary.items()}

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cosines `[B, C]` and the named parts of the loss, the total as "loss".

        The arguments are what `parse_batch_train` returns, the labels `[B]` last. Under torchrun
        B is this rank's share; the losses are those of the batch of all ranks.
        """
        raise NotImplementedError

    def _backward_and_update(self, loss: Tensor) -> None:
        self.model_zero_grad()
        self.backward(loss)
        self.update()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, scaled where float16 needs it."""
        self.detect_anomaly(loss)
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def update(self) -> None:
        """One step of every optimiser, on gradients that `backward` made."""
        self.mean_gradients()  # before unscaling, so that all ranks see the same overflow
        if self.scaler is None:
            self.model_update()
            return
        for optimizer in self._optims.values():
            self.scaler.step(optimizer)
        self.scaler.update()

    def autocast(self):
        """The context of a forward pass in this run's precision."""
        if self.precision.autocast is None:
            return nullcontext()
        return self.precision.context(self.device)

    def parse_batch_train(self, batch: dict) -> tuple[Tensor, Tensor]:
        return batch["img"].to(self.device, non_blocking=True), batch["label"].to(self.device)

    @torch.no_grad()
    def text_features(self) -> Tensor:
        """Text features `[C, D]` of the classes, encoded once as long as the weights stay."""
        if self._text is None:
            with self.autocast():
                self._text = self.model.text_features()
        return self._text

    @torch.no_grad()
    def class_features(self) -> dict[str, Tensor]:
        """What describes the classes, as `PromptedCLIP.class_features`, in this run's precision."""
        with self.autocast():
            return self.model.class_features()

    def model_inference(self, images: Tensor) -> Tensor:
        """Logits `[B, C]`; the prompts are encoded once for all batches of a test."""
        with self.autocast():
            return self.model(images, self.text_features())[0] * self.model.scale

    def set_model_mode(self, mode: str = "train", names: str | list[str] | None = None) -> None:
        """As Dassl's; whoever changes the mode may go on to change the weights."""
        self._text = None
        super().set_model_mode(mode, names)


def _rounded(values) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
