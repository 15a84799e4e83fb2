"""The networks of the emoji world that say what an image shows."""
