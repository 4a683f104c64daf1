"""Formats, streams and transforms."""
