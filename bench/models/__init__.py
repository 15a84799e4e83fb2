"""Text-to-image models: loading, sampling, and scoped changes of them.

loading         a diffusers folder or hub id to a pipe; refuses early what cannot be loaded
parts           its modules as a type checker sees them
families        what one architecture loads, how its generator is called, which weights have which role: a file each
capabilities    what plugins need and what families offer, in the same words
pipe            a loaded model: its parts, one way to sample from it, and changes that last for a `with` block
sampling        the loop from noise to latents, guidance rules, trajectories
process         noise processes: noising, inversion, partial denoising, training levels
origin          the weights as they were loaded, to be had again at any time
row_cost        what one row of one call costs, counted
text            prompts to conditioning, with room for learned tokens
conditioning    what the generator is told, in segments, one for each text encoder that it reads
encodings       encoded prompts, kept in memory
hooks           which hooks are ours
adapters        low-rank adapters beside the layers of a denoiser
diffusion       tensor functions that many methods and attacks share
attention_maps  what cross-attention looks at
tiny            pieces of random models, for tests
folders         where the files of a model lie, how the folder of each family is built
architecture    does a folder hold a model of its family
digests         SHA-256 of files, remembered
device          where networks that look at images compute
numerics        in which arithmetic a model computes
hub             finds the weights of published networks
fingerprints    hashes of weights and files
"""
