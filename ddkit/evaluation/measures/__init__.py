"""What is measured of trained students, one file a measure."""
