"""What the author of a method, an attack or a metric reads.

types     the data types: ModelSpec, Concept, Sampler, PromptSet, Erasure, Adversary, ImageSet, Scores
plugin    the base classes: Method, Attack, Metric, and what the harness offers them
hints     what to type instead of a name that does not exist
building  from settings to typed objects
controls  images that an attack gets instead of the concept's, to calibrate it
flags     what makes a result doubtful
shared    work that depends on no concept, made once (`ctx.shared`)
batches   batches that fit into memory
resume    loops that continue after a kill (`ctx.resumable`)
screen    which prompts are never used, and which images are never shown
"""
