"""Small helpers that know nothing of models: progress, garbage collection, dataclass tools, processors."""
