"""How the emoji world was made and measured: `vestige world ...`.

command          `vestige world ...`
dataset          the training set: images, captions, latents
fit              one training loop for all models, with checkpoints
muon             the optimiser
train_generator  text encoder, VAE and UNet
train_judges     the judges and clip_emoji
export           the generator as a diffusers folder, oracles as UNet weights
measure          how well the models work
card             the model card and the contact sheet
concepts         a concept file per object and style
"""
