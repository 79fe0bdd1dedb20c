"""What every room may use, with no word of datasets: serialization, files, device, console, seeds, signals."""
