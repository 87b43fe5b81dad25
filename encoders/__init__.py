"""Encoders of images and graphs."""

import os

os.environ.setdefault("DGLBACKEND", "pytorch")  # unset, DGL prints and writes ~/.dgl/config.json
