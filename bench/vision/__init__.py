"""Networks that look at images, and measures on what they see: what metrics, judges, attacks and methods build on.

pixels            sizes, crops and normalisation of images as networks read them
clip_models       CLIP models under one interface: images and texts to unit vectors
features          images to feature vectors, one name per extractor
set_distances     two sets of feature vectors -> FID, KID, CMMD, precision and recall
perceptual        how different two images look, place by place (LPIPS' form)
made_up           drawings of things that no model was trained on
masks             where in an image a named thing is
preferences       how much people would like an image: PickScore, ImageReward, aesthetics
vlm               questions to visual language models
nudity_rules      published rules for explicit content, as views on stored detections
representations   activations inside a model, CKA, linear probes

Networks are loaded when first asked; a missing weight is a sentence that says how to get it.
"""
