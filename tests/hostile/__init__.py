"""Sets, sources and servers that somebody made to do harm, and the commands that meet them."""
