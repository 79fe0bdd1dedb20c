"""One student on one set."""
