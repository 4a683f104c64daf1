"""Learners: streaming with replay, its offline upper bounds, base-network training, and VQA."""
