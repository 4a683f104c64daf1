"""Data sets of the kernel: blobs, digits, folders, Hugging Face."""
