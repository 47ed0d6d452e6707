"""Receptive fields: which part of the input each position of a map sees."""
