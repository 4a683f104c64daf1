"""Weights: networks by name with the weights asked for, and files of the original's form."""
