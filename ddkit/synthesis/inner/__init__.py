"""Inner methods: what makes the images of a stage."""
