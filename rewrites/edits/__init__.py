"""Edits that several rewrites make: merged tensors, emitted nodes, average pooling."""
