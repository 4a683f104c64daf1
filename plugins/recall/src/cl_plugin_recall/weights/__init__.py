"""Artefact names, checkpoints, and providers of pretrained weights."""
