"""Scores, colours and reports of a trained model."""
