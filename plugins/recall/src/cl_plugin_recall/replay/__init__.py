"""Replay sources, pseudo-labels and the interleaving of old and new."""
