"""Networks by name from torchvision, timm, transformers, one's own module, and a real one that needs no download."""
