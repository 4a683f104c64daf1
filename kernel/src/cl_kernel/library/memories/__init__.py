"""Policies (which examples are kept) and the raw codec."""
