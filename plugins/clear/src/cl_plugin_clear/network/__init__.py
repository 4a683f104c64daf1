"""Encoders, heads, feature extraction and augmentation."""
