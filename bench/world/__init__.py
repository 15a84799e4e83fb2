"""The embedded emoji world: a small, really trained text-to-image model whose every training image is known.

See MODEL_CARD.md in this folder for what it holds and how well it works.

content   what the world shows: drawings, names, captions
models    the networks that say what an image shows
training  how the models were trained and measured: `vestige world ...`
"""
