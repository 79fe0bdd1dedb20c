"""Finding, training and using teachers."""
