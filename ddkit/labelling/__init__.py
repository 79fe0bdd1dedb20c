"""Labelling: draws views, computes the teacher's logits for them, and packs shards."""
