"""One self-contained HTML page of a run or a comparison: `python -m results.report DIR...`."""
