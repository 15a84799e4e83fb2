"""What the emoji world shows: drawings, names, captions, and where its files lie. Nothing here needs a network."""
