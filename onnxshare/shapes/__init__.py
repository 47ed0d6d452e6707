"""The types and shapes of all tensors of a model, for one sample."""
