"""Scores of the paper."""
