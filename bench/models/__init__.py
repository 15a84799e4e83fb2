"""Text-to-image models: loading, sampling, and scoped changes of them.

loading         a diffusers folder or hub id to a pipe; refuses early what cannot be loaded
parts           its modules as a type checker sees them
pipe            a loaded model: its parts, one sampling loop, and changes that last for a `with` block
text            prompts to conditioning, with room for learned tokens
encodings       encoded prompts, kept in memory
adapters        low-rank adapters beside the layers of a denoiser
diffusion       tensor functions that many methods and attacks share
attention_maps  what cross-attention looks at
device          where networks that look at images compute
numerics        in which arithmetic a model computes
tiny            a random model for tests
folders         where a model's own files lie
hub             finds the weights of published networks
fingerprints    hashes of weights and files
"""
