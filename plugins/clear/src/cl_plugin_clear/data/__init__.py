"""Formats of CLEAR: metadata, the photo store, buckets, features, labelled folders and the streams made of them."""
