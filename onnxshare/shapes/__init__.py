"""Types and shapes of all tensors."""
