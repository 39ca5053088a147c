"""The report: a self-contained HTML page on one or several runs, `python -m results.report DIR`."""
