"""What a set is: views (integers and pixels), codecs, shards, the manifest, and checking them. docs/format.md says it
in full. Nothing here knows of teachers, sources or methods."""
