"""`diff` and `family`: what model files share and where they differ, without running them."""
