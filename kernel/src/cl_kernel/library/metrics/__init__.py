"""Metrics of the kernel: pure functions of predictions."""
