"""Out-of-distribution scores, metrics, decisions, regions and the evaluation pass."""

from ood import word_scores  # registers its scores
