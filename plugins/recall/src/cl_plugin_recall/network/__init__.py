"""Layers, encoders, decoders, and TF-Hub modules."""
