"""`check`: rules that a model must keep, where their limits come from, and what they found."""
