"""Checkpoints of pre-training, in and out."""
