"""A smaller head fitted to samples: methods, fits, search, certificate."""
