"""Stores: hold the rows of a set during training and compute their views."""
