"""The picture and table of a search for a small head."""
