"""Data sets: indexes of images (dirmaps), task file lists, and the streams made of them."""
