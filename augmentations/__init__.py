"""Batched augmentations of images and graphs, on the device of the batch."""
