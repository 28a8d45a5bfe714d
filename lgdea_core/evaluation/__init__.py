"""What a model is worth: tasks, metrics, intervals and controls.

harness       `evaluate`: zero-shot classification, phrase grounding and retrieval on one split
one_pass      every image is encoded once; tasks put their questions to it while it is
zero_shot, prompts, classification    scores of prompts, prompt sets, AUC, AP, F1 and accuracy
grounding, controls, breakdown        maps against boxes; what they owe to usual places; by finding, size and side
exam, looks, outside           does it look: every score where nothing is to be seen, for models from anywhere, too
retrieval, regions                    ranks and precisions of images and texts; ASG's regions and tags
bootstrap     intervals over resampled patients
downstream, supervised, linear_probe, segmentation    what a tower learns from a share of the labels
checkpoint    published models through the same tasks
extraction/   scores of extractors against references
"""
