"""The outside: reading models, reading the values of their tensors, writing models."""
