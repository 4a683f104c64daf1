"""Samples held in memory, parts of them, and the splits that make streams of them."""
