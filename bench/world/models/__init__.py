"""The networks of the emoji world that say what an image shows.

clip_emoji  a small CLIP
judges      two classifiers of object, style and background
"""
