"""Vestige's harness: it runs erasures, attacks and metrics, and knows none of them by name.

contract    what the author of a method, an attack or a metric reads
prompts     prompts from templates and concepts, from files, from published lists
models      load a model, sample from it, change it inside a `with` block
world       the embedded emoji model
vision      networks and measures on images
judges      decide whether an image shows a thing
statistics  intervals, paired differences, ranks, the headline score
run         one job, from a composed configuration to a record
reports     from finished records to tables, pages and figures
papers      published numbers, compared with ours
cli         the verbs of the command line
places      paths: what is shipped, what the user has, where results go
"""

__version__ = "0.1.0"
