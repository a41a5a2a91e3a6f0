"""A plan against the reference and against ground truth: clips, data sets and the report."""
