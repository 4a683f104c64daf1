"""CRUMB as a learner: the loop, what it keeps of an example, what it answers."""
