"""The rows of the table of operators, by who defines them."""
