"""Losses, phases, replay sources, pseudo-labels and the learner: the method, and what it is compared with."""
