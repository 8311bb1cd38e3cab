"""Images in tiles, and patches cut from them."""
