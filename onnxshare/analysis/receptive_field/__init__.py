"""What each position of a map sees of the input."""
