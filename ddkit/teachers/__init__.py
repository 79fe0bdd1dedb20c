"""Teachers: found, trained, and used frozen."""
