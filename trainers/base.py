"""Trainers around a frozen CLIP: loading, precision, checkpoints and provenance."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from yacs.config import CfgNode

from clip import ClipModel, load, resolve_precision, weights_hash
from clip.prompted import cosines
from dassl import distributed
from dassl.data import DataManager
from dassl.data.transforms.transforms import build_preprocess
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import InputError, read_json, set_random_seed, versions, write_json
from dassl.utils.names import classnames_hash
from datasets.fewshot import split_record
from trainers.step import StepTrainer

logger = logging.getLogger(__name__)

# The figures and the detector of an evaluation, which belong to the model that was evaluated.
EVALUATED = (
    *("results.json", "results.csv", "streams.json", "streams.csv"),
    *("detector.json", "detector.safetensors"),
)
IMAGE_PACKAGES = ("torch", "torchvision", "open_clip_torch", "pillow")  # they decode and encode


class ClipTrainer(StepTrainer):
    """A Dassl trainer around a frozen CLIP.

    A method that learns only the prompt is a `PromptTrainer` and defines `loss`. Any other method
    defines `loss` and `build_model`, which loads the CLIP by `load_clip`, sets `self.model` to a
    `PromptedCLIP`, and ends with `learn`.

    Methods declare the facts of `TrainerBase` and `StepTrainer`, and
        MUST_MATCH: entries of a checkpoint's meta that must equal the config's.
        WEIGHTS: the method's settings that scale the loss or a part of it.
        top_k: K of region maps; 0 for the paper's ratio.
    """

    MUST_MATCH: ClassVar[tuple[str, ...]] = ("activation", "weights_hash")
    WEIGHTS: ClassVar[tuple[str, ...]] = ()
    top_k: int = 0
    _text: Tensor | None = None
    _loaded_from: str | None = None

    def __init__(
        self, cfg: CfgNode, beside: Sequence[ClipTrainer] | None = None, images: bool = True
    ):
        """Build the data, the model and the evaluator.

        Args:
            beside: trainers of the same data and CLIP, to share theirs. Unless None (others may
                follow, even if there are none yet), `store_for_autocast` is left to the caller.
            images: False to load only the class names, without the images of the data set (see
                `build_dataset`); such a trainer can neither train nor test.
        """
        self._beside, self._images = next(iter(beside or ()), None), images
        super().__init__(cfg)
        self._beside = None
        if beside is None:
            self.store_for_autocast()

    # Building

    def store_for_autocast(self) -> None:
        """Store the CLIP for autocast, if it is in use; not before all trainers that share it are
        built, as building may need text features in float32."""
        if self.precision.autocast:
            self.model.clip.store_for_autocast(self.precision.autocast)

    @property
    def settings(self) -> CfgNode:
        """Return this trainer's node of the config."""
        return self.cfg.TRAINER[self.CONFIG_KEY]

    def load_clip(self) -> ClipModel:
        """Load the frozen CLIP of the config onto the trainer's device."""
        backbone = self.cfg.MODEL.BACKBONE
        logger.info("Loading CLIP (backbone: %s)", backbone.NAME)
        self.precision = resolve_precision(self.settings.PREC, self.device)
        if self._beside is not None:
            return self._beside.model.clip
        activation = backbone.ACTIVATION or None
        model, _ = load(backbone.NAME, self.device, self.precision.name, activation)
        self._check_input(model)
        return model

    def _check_input(self, model: ClipModel) -> None:
        """Refuse images of another size or transform than the model was trained on, or raw pixels.

        For weights in a file, the config overrules the JSON beside it; only the size must agree.
        """
        settings = self.cfg.INPUT
        expected = {key: _rounded(value) for key, value in model.preprocess.settings().items()}
        differing = [key for key, value in expected.items() if _rounded(settings[key]) != value]
        if not model.transform_known:
            for key in [key for key in differing if key != "SIZE"]:
                logger.warning(
                    "INPUT.%s is %s, not %s's %s", key, settings[key], model.name, expected[key]
                )
            model.preprocess = build_preprocess(self.cfg, normalize=True)
            differing = [key for key in differing if key == "SIZE"]
        wrong = [f"INPUT.{key} is {settings[key]}, not {expected[key]}" for key in differing]
        if "normalize" not in settings.TRANSFORMS:
            wrong.append(f"INPUT.TRANSFORMS is {list(settings.TRANSFORMS)}, without normalize")
        if wrong:
            raise InputError(
                f"{model.name} was trained on images of another form: {'; '.join(wrong)}. "
                "Set these keys in the trainer's YAML or at the end of the command"
            )

    def learn(self, name: str, module: nn.Module, groups: list[dict] | None = None) -> None:
        """Build the optimiser of `module`, called `name` in files; `build_model` ends with this."""
        self.optim = build_optimizer(module, self.cfg.OPTIM, groups)
        self.sched = self.build_scheduler()
        self.register_model(name, module, self.optim, self.sched)
        if any(isinstance(layer, torch.nn.BatchNorm2d) for layer in self.model.clip.modules()):
            torch.backends.cudnn.benchmark = True  # a ResNet, on images of one size
        enabled = self.precision.needs_scaler
        if enabled:  # the scaler skips steps that overflow, often the very first
            warnings.filterwarnings("ignore", "Detected call of .lr_scheduler.step")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=enabled)
        if self.cfg.SEED >= 0:
            # Building a model draws a number of random values that depends on where its weights
            # come from; the order of the images must not depend on it.
            set_random_seed(self.cfg.SEED)

    def build_scheduler(self) -> LRScheduler:
        return build_lr_scheduler(self.optim, self.cfg.OPTIM)

    def build_data_manager(self) -> DataManager:
        if self._beside is None:
            return DataManager(self.cfg, images=self._images)
        if self.cfg.VERBOSE:
            self._beside.dm.show_dataset_summary(self.cfg)
        return self._beside.dm

    # Messages about a step

    def precision_in_use(self) -> str:
        return self.precision.name  # not PREC: a CPU replaces float16 by float32

    def ways_out(self) -> list[str]:
        large = [
            f"a smaller TRAINER.{self.CONFIG_KEY}.{key} (now {self.settings[key]:g})"
            for key in self.WEIGHTS
            if self.settings[key] > self.CONFIG[key]
        ]
        return large + super().ways_out()

    # Evaluation

    @torch.no_grad()
    def text_features(self) -> Tensor:
        """Return the classes' text features `[C, D]`, kept until a step, a change of mode or a
        loaded checkpoint: after other changes of the weights, call `set_model_mode`."""
        if self._text is None:
            with self.autocast():
                self._text = self.model.text_features()
        return self._text

    @torch.no_grad()
    def class_features(self) -> dict[str, Tensor]:
        """Return `PromptedCLIP.class_features` in this run's precision."""
        with self.autocast():
            return self.model.class_features()

    def model_inference(self, images: Tensor) -> Tensor:
        """Return logits `[B, C]`."""
        with self.autocast():
            features, _ = self.model.image_features(images, local=False)
            return cosines(features, self.text_features()) * self.model.scale

    def model_zero_grad(self, names: str | list[str] | None = None) -> None:
        """Clear the gradients, as every step does, and drop the kept text features."""
        self._text = None
        super().model_zero_grad(names)

    def set_model_mode(self, mode: str = "train", names: str | list[str] | None = None) -> None:
        """Set the mode as Dassl does, and drop the kept text features: the weights may change."""
        self._text = None
        super().set_model_mode(mode, names)

    # Checkpoints and provenance

    def before_train(self) -> None:
        """Resume a run that was stopped, record which images are trained on, and remove the results
        of the model that the folder held before."""
        super().before_train()
        self.record_split()
        older = [path for name in EVALUATED if (path := Path(self.output_dir, name)).exists()]
        if older and self.start_epoch < self.max_epoch and distributed.is_main():
            names = ", ".join(path.name for path in older)
            logger.info("The results of an older model are removed: %s", names)
            for path in older:
                path.unlink()

    def record_split(self) -> None:
        """Write to split.json which ID images are trained on, and which were held out; InputError
        if the resumed run has begun on others."""
        settings, data = self.cfg.DATASET, self.dm.dataset
        record = split_record(
            data.train_x, settings.ROOT, settings.NUM_SHOTS, self.cfg.SEED, data.held_out
        )
        path = Path(self.output_dir, "split.json")
        if self.start_epoch > 0 and path.exists():
            before, now = ({*map(tuple, rows["train"])} for rows in (read_json(path), record))
            if differing := sorted(before ^ now):
                raise InputError(
                    f"{path} lists the {len(before):,} images that this run is trained on: "
                    f"{len(before - now):,} of them are no longer drawn, and {len(now - before):,} "
                    f"others are, such as {differing[0][0]}. Restore the data to resume, or begin "
                    "anew in another --output-dir"
                )
        if distributed.is_main():
            write_json(record, path)

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load the learned weights of the run in `directory`, or nothing if that is "".

        CoOp's and LoCoOp's published files load too.

        Raises:
            InputError: there is no such file, or `check_checkpoint` refuses it.
        """
        super().load_model(directory, epoch)
        self._text = None
        if directory:
            first = self.get_model_names()[0]
            self._loaded_from = str(self.checkpoint_file(directory, first, epoch))

    def checkpoint_meta(self) -> dict[str, str | int]:
        """Return the facts that say which models and classes a checkpoint fits."""
        clip, names = self.model.clip, self.dm.dataset.classnames
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
        """Describe how an entry of the checkpoint's meta differs from the config's, or "" if not.

        Published files have no meta, so nothing is compared for them.
        """
        found, expected = checkpoint.get("meta") or {}, self.checkpoint_meta()
        if key not in found or found[key] == expected[key]:
            return ""
        return (
            f"{path} was trained with {key} {found[key]} ({found.get('backbone')}, "
            f"{found.get('num_classes')} classes), the config gives {expected[key]} "
            f"({expected['backbone']}, {expected['num_classes']} classes)"
        )

    def provenance(self) -> dict[str, object]:
        """Return everything that could change this model's figures, for a results file.

        "comparable" holds what must be equal in runs whose figures are averaged.
        """
        cfg, meta = self.cfg, self.checkpoint_meta()
        settings = {k: v for k, v in self.settings.items() if k not in self.INCIDENTAL}
        return {
            "comparable": {
                "trainer": meta["trainer"],
                "settings": settings,
                "training": self.training_facts(cfg) if self.get_model_names() else None,
                "weights_hash": meta["weights_hash"],
                "activation": meta["activation"],
                "precision": self.precision.name,
                "dataset": cfg.DATASET.NAME,
                "folder": os.path.basename(cfg.DATASET.FOLDER),
                "classnames_hash": meta["classnames_hash"],
                "num_classes": meta["num_classes"],
                "transform": asdict(build_preprocess(cfg, normalize=True)),
            },
            "backbone": meta["backbone"],
            "seed": cfg.SEED,
            "logit_scale": float(self.model.scale),
            "device": str(self.device),
        }

    def training_facts(self, cfg: CfgNode) -> dict[str, object]:
        """Return what `cfg` says of the training, without the method's own settings."""
        training = {
            "dataset": cfg.DATASET.NAME,
            "folder": os.path.basename(cfg.DATASET.FOLDER),
            "shots": cfg.DATASET.NUM_SHOTS,
            "precision": cfg.TRAINER[self.CONFIG_KEY].get("PREC"),
            "optim": dict(cfg.OPTIM),
            "train_x": dict(cfg.DATALOADER.TRAIN_X),
            "input": dict(cfg.INPUT),
            "init_weights": os.path.basename(cfg.MODEL.INIT_WEIGHTS),
            "final_model": cfg.TEST.FINAL_MODEL,
        }
        if 0 < cfg.DATALOADER.VIEWS < cfg.OPTIM.MAX_EPOCH:  # else no augmentation is repeated
            training["views"] = cfg.DATALOADER.VIEWS
        return training

    def image_encoding(self) -> dict[str, object]:
        """Return everything that could change an image's features; the prompts cannot, unless the
        model computes these features in its own way."""
        clip, weights, own = self.model.clip, self.model.clip.visual, {}
        if self.model.changes_images:
            weights = self.model
            own = {"trainer": type(self).__name__, "settings": dict(self.settings)}
        return own | {
            "weights": weights_hash(weights.state_dict()),
            "activation": clip.activation,
            "precision": self.precision.name,
            "device": self.device.type,
            "transform": str(self.dm.tfm_test),
            "versions": {name: versions()[name] for name in IMAGE_PACKAGES},
        }


def _rounded(value: str | Sequence[float]) -> str | tuple[float, ...]:
    return value if isinstance(value, str) else tuple(round(x, 4) for x in value)
