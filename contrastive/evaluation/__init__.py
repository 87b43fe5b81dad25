"""Evaluation of frozen features: probes, neighbours, the quality of a representation, and statistics."""
