"""Edits that several rewrites need."""
