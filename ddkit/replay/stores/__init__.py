"""Where the rows of a set lie while a student trains."""
