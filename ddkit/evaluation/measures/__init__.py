"""Measures of trained students, one module each."""
