"""Renders cards and pictures from the manifest, and publishes sets and models on the Hub."""
