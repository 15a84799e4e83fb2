"""Null controls: what an attack that is given images gets instead of images of the concept (its setting `source`).

target         images of the concept: the attack itself
wrong_concept  images of the concept's first sibling
scrambled      images of the concept, cut into squares and shuffled (arXiv 2412.00782)
never_knew     images of a made-up thing that no model was trained on
"""

CONTROLS = ("wrong_concept", "scrambled", "never_knew")
SOURCES = ("target", *CONTROLS)
