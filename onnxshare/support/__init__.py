"""Small helpers that know nothing of models: progress, garbage collection, dataclasses."""
