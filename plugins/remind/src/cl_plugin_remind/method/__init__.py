"""Learners, their losses and optimiser, product quantisation and what a memory keeps of an example."""
