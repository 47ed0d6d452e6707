"""The table of operators: which input is a weight, how often it is used, how much work it is."""
