"""Many models at once: one row per model, from folders, globs and addresses."""
