"""`compare`: two models run, and a verdict."""
