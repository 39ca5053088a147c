"""What a run reads of the data, by its trainer: ID images, image-caption pairs, class names alone."""

from __future__ import annotations

from dassl.engine import TRAINER_REGISTRY


def reads_pairs(cfg) -> bool:
    """Whether the trainer learns from DATASET.PAIRS (it says so: READS_PAIRS)."""
    known = cfg.TRAINER.NAME in TRAINER_REGISTRY
    return known and getattr(TRAINER_REGISTRY.get(cfg.TRAINER.NAME), "READS_PAIRS", False)


def trains_elsewhere(cfg) -> bool:
    """Whether it learns from pairs that are not the ID set's own training images."""
    return reads_pairs(cfg) and cfg.DATASET.PAIRS.SOURCE != "classnames"
