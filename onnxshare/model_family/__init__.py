"""The models of a family in a folder: each tensor that several hold is stored once."""
