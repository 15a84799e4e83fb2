"""Text-to-image models: loading, sampling, and scoped changes of them.

loading         a diffusers folder or hub id to a pipe; refuses early what cannot be loaded
pipe            a loaded model: its parts, one sampling loop, and changes that last for a `with` block
text            prompts to conditioning, with room for learned tokens
encodings       encoded prompts, kept in memory
diffusion       tensor functions that many methods and attacks share
attention_maps  what cross-attention looks at
tiny            a random model for tests
hub             finds the weights of published networks
fingerprints    hashes of weights and files
"""
