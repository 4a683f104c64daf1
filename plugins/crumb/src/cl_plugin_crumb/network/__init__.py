"""The codebook and the networks that are cut at one layer."""
