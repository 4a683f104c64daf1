"""Files, checkpoints and run folders."""
