"""What people see: pictures, and the card with the files stock tools read. Rendered from the manifest alone."""
