"""The goals of `trust.py`, and what their trials share."""
