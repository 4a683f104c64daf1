"""Product quantisation, the codec built on it, and how stored features are augmented and drawn."""
