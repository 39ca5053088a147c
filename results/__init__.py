"""Results of evaluations: files, averages, comparisons, tables, plots and the report."""
