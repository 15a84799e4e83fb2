"""What the emoji world shows: drawings, names, captions, and where its files lie. Nothing here needs a network.

catalog    objects, styles and backgrounds, with their names and synonyms
captions   a caption for each image
drawing    images from specifications
sprites    the drawings, rendered from icon packages
tokenizer  a small CLIP tokenizer
paths      where the shipped files are, and where training writes
"""
