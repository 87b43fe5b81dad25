"""Random links that several tests share."""

from itertools import product

import numpy as np

from contrastive.data.link_files import read_links

NUM_NODES, NUM_RELATIONS = 24, 3


def write_csv(folder, undirected=True, seed=0):
    """Random links of three relations between 24 nodes, a third of all pairs in each."""
    rng = np.random.default_rng(seed)
    rows = ["head,relation,tail"]
    for r in range(NUM_RELATIONS):
        for u, v in product(range(NUM_NODES), repeat=2):
            if (u < v if undirected else u != v) and rng.random() < 0.33:
                rows.append(f"n{v},r{r},n{u}" if rng.random() < 0.5 and undirected else f"n{u},r{r},n{v}")
    file = folder / "links.csv"
    file.write_text("\n".join(rows) + "\n")
    return file


def random_links(folder, undirected):
    """Those of ``write_csv``, read."""
    return read_links(write_csv(folder, undirected), undirected=undirected)[0]


def as_set(links, triples):
    return set(map(tuple, links.canonical(triples).reshape(-1, 3).tolist()))
