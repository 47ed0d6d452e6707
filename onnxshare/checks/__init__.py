"""The gate: rules that a model must keep, where their limits come from, and the report."""
