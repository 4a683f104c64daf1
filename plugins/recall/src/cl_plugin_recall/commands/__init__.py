"""``clk recall ...``: everything that is no run."""
