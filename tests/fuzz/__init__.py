"""Fuzzing of everything that reads untrusted bytes: targets, valid inputs to begin with, and mutations of them."""
