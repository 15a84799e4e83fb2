"""Networks and measures on images, for metrics, judges, attacks and methods.

pixels            sizes, crops and normalisation of images as networks read them
clip_models       CLIP models under one interface: images and texts to unit vectors
listings          what open_clip and torchvision list, without importing them
features          images to feature vectors, one name per extractor
set_distances     two sets of feature vectors -> FID, KID, CMMD, precision and recall
perceptual        how different two images look, position by position (LPIPS)
made_up           drawings of things that no model was trained on
masks             where in an image a named thing is
made_up           drawings of a thing that no model was trained on
preferences       predicted human preference: PickScore, ImageReward, aesthetics
vlm               questions to visual language models
nudity_rules      published rules for explicit content, computed from stored detections
representations   activations inside a model, CKA, linear probes

A network is loaded when it is first used. If its weights are missing, the error says how to get them.
"""
