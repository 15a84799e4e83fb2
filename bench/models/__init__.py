"""Text-to-image models: loading, sampling, and scoped changes of them.

loading         a diffusers folder or hub id to a pipe; refuses early what cannot be loaded
parts           its modules as a type checker sees them
pipe            a loaded model: its parts, one sampling loop, changes that end with `with`
text            prompts to conditioning, with room for learnt words
encodings       encoded prompts, kept in memory
adapters        low-rank adapters beside the layers of a denoiser
diffusion       tensor functions that many methods and attacks share
attention_maps  what cross-attention looks at
tiny            a random model for tests
folders         where a model's own files lie
hub             where the weights of other people's networks lie
fingerprints    what weights and files are, by content
"""
