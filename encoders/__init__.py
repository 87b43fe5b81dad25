"""Encoders of images and graphs."""
