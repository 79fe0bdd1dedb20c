"""From encoded images to shards: views, the teacher on each of them, packing."""
