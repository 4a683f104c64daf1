"""Replay-based continual semantic segmentation (RECALL), as a plugin of clk."""
