"""A trainer's model as a detector's recipe."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dassl.utils.provenance import git_state
from dassl.utils.tools import versions
from detector.detector import describe_clip
from detector.detector_file import Recipe
from ood.regions import suggest_top_k
from trainers.base import ClipTrainer


def recipe_of(
    trainer: ClipTrainer, features: dict[str, Tensor], parameters: dict[str, dict[str, float]]
) -> Recipe:
    """What a detector needs of the trainer's model, not calibrated yet.

    Args:
        features: of its classes, as `class_features` gave them. parameters: score -> parameters.
    """
    facts, names = trainer.provenance(), list(trainer.dm.dataset.classnames)
    return Recipe(
        classnames=names,
        features=features,
        scale=trainer.model.scale.detach().float(),
        clip=describe_clip(trainer.model.clip),
        transform=_transform(trainer.cfg),
        precision=trainer.precision.name,
        parameters=parameters,
        score=trainer.SCORE if trainer.SCORE in parameters else next(iter(parameters)),
        top_k=getattr(trainer, "top_k", 0) or suggest_top_k(len(names)),
        origin={
            "trainer": type(trainer).__name__,
            "seed": trainer.cfg.SEED,
            "settings": facts["comparable"]["settings"],
            "dataset": trainer.cfg.DATASET.NAME,
            # Which checkpoint: its file and the hash of what was loaded.
            **{key: facts[key] for key in ("context", "no_encoder") if key in facts},
            "versions": versions(),
            "git": git_state(),
        },
    )


def _transform(cfg) -> dict[str, Any]:
    """Of the test images; without "normalize" among the TRANSFORMS they are not normalised."""
    given, normalised = cfg.INPUT, "normalize" in cfg.INPUT.TRANSFORMS
    return {
        "size": list(given.SIZE),
        "interpolation": given.INTERPOLATION,
        "mean": list(given.PIXEL_MEAN) if normalised else [0.0] * 3,
        "std": list(given.PIXEL_STD) if normalised else [1.0] * 3,
    }
