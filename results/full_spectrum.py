"""Full-spectrum figures (OpenOOD v1.5, Zhang et al., DMLR 2024): shifted ID images count as ID.

ID are the images of the ID test set and of every shifted ID set together, each image once, so that
a large set weighs more. The OOD sets are those of the standard figures. Accuracy is the share of
right predictions on all these ID images. Standard and full-spectrum figures have tables of their
own, and no mean is over both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ood.metrics import PRIMARY
from ood.set_scores import SetScores
from results.files import Means, evaluate_sets
from results.tables import figures_table, percent


def full_spectrum(
    inside: Sequence[SetScores],
    outside: Mapping[str, Mapping[str, np.ndarray]],
    means: Means | None = None,
) -> dict[str, Any]:
    """Return {"sets": ID set and shifted ID sets, "accuracy" on all, "figures"}, for results.json.

    Args:
        inside: the ID set, then the shifted ID sets.
        outside, means: as `results.files.evaluate_sets`.
    """
    scores = {name: np.concatenate([s.scores[name] for s in inside]) for name in inside[0].scores}
    right = np.concatenate([np.equal(s.labels, s.predictions) for s in inside])
    return {
        "sets": [s.name for s in inside],
        "accuracy": float(right.mean()),
        "figures": evaluate_sets(scores, outside, means),
    }


def format_full_spectrum(
    spectrum: Mapping[str, Any], inside: Sequence[SetScores], primary: str = PRIMARY
) -> str:
    """Return the table of the full-spectrum figures, and the accuracy on each ID set."""
    count = sum(len(s.images) for s in inside)
    lines = [f"Accuracy on {s.name}: {percent(s.accuracy)} % of {len(s.images):,}" for s in inside]
    lines.append(f"Accuracy on all of them: {percent(spectrum['accuracy'])} % of {count:,}")
    title = (
        "Full spectrum: shifted ID images count as ID, all together: "
        f"{', '.join(spectrum['sets'])}. ID images: {count:,}."
    )
    return "\n\n".join([title, figures_table(spectrum["figures"], primary), "\n".join(lines)])
