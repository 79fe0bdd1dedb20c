"""Opening a set wherever it lies: a directory or the Hub, whole or a prefix."""
