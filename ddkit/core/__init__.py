"""General utilities, independent of datasets: serialization, files, devices, console output, seeds, signals."""
