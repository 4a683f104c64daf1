"""Artefact names, checkpoints, and readers of published weights."""
