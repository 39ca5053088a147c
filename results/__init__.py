"""Results: files, averages, comparisons, tables, plots, the report."""
