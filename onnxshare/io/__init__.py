"""Model files: opened and read safely, checked, and written whole or not at all."""
