"""Figures of an accuracy matrix, what a benchmark run writes, saved models, results of other programs."""
