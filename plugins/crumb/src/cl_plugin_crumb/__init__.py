"""Compositional replay with memory blocks, baselines, data sets and ablations (CRUMB), as a plugin of clk."""
