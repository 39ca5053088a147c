"""Out-of-distribution scores, metrics, results, plots and region maps."""
