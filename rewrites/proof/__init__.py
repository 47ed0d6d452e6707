"""The proof that a rewritten model is what it claims."""
