"""Formats, generators, the preparer and the streams."""
