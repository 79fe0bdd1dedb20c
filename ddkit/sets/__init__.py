"""Opens distilled sets, or prefixes of them, from a directory or the Hub."""
