"""Molecules of few atoms, with what can be learnt of them, and an encoder of them."""

import csv

import numpy as np

HEADS = ["", "C", "CC", "O", "N"]
RINGS = ["C1CC1", "C1CCC1", "C1CCCC1", "c1ccccc1", "c1ccncc1", "c1ccoc1", "C1CCNCC1", "C1CCOCC1", "c1ccsc1"]
TAILS = ["C", "CC", "CO", "CN", "CCl", "CCC", "C(=O)O", "C#N", "CF", "CCO", "C(C)C", "CS"]
ENCODER = {
    "class_path": "encoders.graph.GraphEncoder",
    "init_args": {"node_features": "atoms", "num_hidden": 16, "num_layers": 2, "readout": "mean"},
}


def write_table(file):
    """An oxygen's presence, the same with blanks, and the number of carbons."""
    rng = np.random.default_rng(0)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["smiles", "oxygen", "sparse", "carbons"])
        for name in (head + ring + tail for head in HEADS for ring in RINGS for tail in TAILS):
            oxygen = int("O" in name or "o" in name)
            sparse = oxygen if rng.random() < 0.6 else ""
            writer.writerow([name, oxygen, sparse, sum(c in "cC" for c in name.replace("Cl", ""))])
