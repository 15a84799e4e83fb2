"""Networks that look at pictures, and measures on what they see: what metrics, judges, attacks and methods build on.

pixels            sizes, crops and normalisation of pictures as networks read them
clip_models       CLIP models under one interface: pictures and texts to unit vectors
features          pictures to feature vectors, one name per extractor
set_distances     two sets of feature vectors -> FID, KID, CMMD, precision and recall
perceptual        how different two pictures look, place by place (LPIPS' form)
masks             where in a picture a named thing is
preferences       how much people would like a picture: PickScore, ImageReward, aesthetics
vlm               questions to visual language models
captions          captions of pictures, and captions as vectors
nudity_rules      published rules for explicit content, as views on stored detections
representations   activations inside a model, CKA, linear probes

Networks are loaded when first asked; a missing weight is a sentence that says how to get it.
"""
