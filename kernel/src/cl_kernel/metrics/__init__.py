"""Scores: pure functions of predictions and of the accuracy matrix."""
