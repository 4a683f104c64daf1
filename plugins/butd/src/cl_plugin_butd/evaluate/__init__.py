"""Metrics, tables, figures and reports of trained networks."""
