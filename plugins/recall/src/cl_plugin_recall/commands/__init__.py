"""``clk recall ...``: everything that is no run."""

METRIC = "segmentation"
"""Name of the metric in a run's results."""
