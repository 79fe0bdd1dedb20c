"""The format of a set: views, label codecs, shards, the manifest, and verification. Specified in docs/format.md.

This package does not depend on teachers, sources or methods.
"""
