"""One self-contained HTML page of everything that was measured of some sets: `ddkit report`, `ddkit view`."""
