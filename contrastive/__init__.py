"""Contrastive pretraining of images and graphs, and transfer to small target sets."""
