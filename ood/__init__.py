"""Out-of-distribution scores, metrics, decisions, regions and the evaluation pass."""
