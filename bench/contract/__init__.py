"""What an author of a method, an attack or a metric reads.

types     the nouns: ModelSpec, Concept, Sampler, PromptSet, Erasure, Adversary, ImageSet, Scores
plugin    the contract: Method, Attack, Metric, and what the harness offers them
building  settings as typed objects, mistakes named by their key
controls  images that an attack gets instead of the concept's, to calibrate it
flags     what makes a result doubtful
resume    loops that go on after a kill (`ctx.resumable`)
screen    what is never asked, and never shown
"""
