"""Data sets of the kernel: blobs, digits, folders, arrays, those of Hugging Face, and what a function gives."""
