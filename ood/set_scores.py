"""Scores of one image set, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dassl.utils.names import check_set_name


@dataclass(frozen=True)
class SetScores:
    """Scores of one image set, image by image; higher = more in-distribution.

    `images`: paths relative to the data root. `scores`: score name -> [n]. `labels` and
    `predictions`: class indices, [n], or None. `rejected`: name of a threshold-free decision ->
    bool [n].
    """

    name: str
    images: Sequence[str]
    scores: dict[str, np.ndarray]
    labels: Sequence[int] | None = None
    predictions: Sequence[int] | None = None
    rejected: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_set_name(self.name)

    def in_order(self) -> SetScores:
        """Return the same with the images in sorted order, so that those of two runs are paired."""
        order = sorted(range(len(self.images)), key=self.images.__getitem__)
        classes = self.labels, self.predictions
        return SetScores(
            self.name,
            [self.images[i] for i in order],
            {score: values[order] for score, values in self.scores.items()},
            *(None if column is None else np.asarray(column)[order] for column in classes),
            {decision: values[order] for decision, values in self.rejected.items()},
        )

    @property
    def accuracy(self) -> float | None:
        """Return the share of correct predictions; None without labels or predictions."""
        if self.labels is None or self.predictions is None or not len(self.labels):
            return None
        return float(np.mean(np.asarray(self.labels) == np.asarray(self.predictions)))
