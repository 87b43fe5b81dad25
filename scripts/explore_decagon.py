"""What the polypharmacy data look like before anything is predicted: three figures and their numbers.

    python scripts/explore_decagon.py FOLDER_OF_DECAGON --output docs

decagon_targets.png: target proteins that pairs of drugs with a side effect share, beside all pairs.
decagon_frequencies.png: how many drug pairs have each side effect.
decagon_cooccurrence.png: which of the most frequent side effects occur in the same pairs of drugs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from scipy import sparse
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.stats import mannwhitneyu

from contrastive.data.link_files import read_links
from contrastive.data.link_table import Links

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def shared_targets(links: Links, targets: Links, out: Path) -> dict[str, float]:
    """Jaccard similarity of the targets of linked pairs, and of all, of drugs with known targets."""
    n = links.num_nodes
    rows = targets.triples[targets.triples[:, 1] == targets.relations.index("target")]
    matrix = sparse.csr_matrix((np.ones(len(rows)), (rows[:, 0].numpy(), rows[:, 2].numpy())), shape=(n, n))
    has = np.flatnonzero(np.asarray(matrix.sum(1)).ravel() > 0)
    has = np.intersect1d(has, links.triples[:, [0, 2]].unique().numpy())
    sizes = np.asarray(matrix.sum(1)).ravel()
    common = (matrix[has] @ matrix[has].T).toarray()
    jaccard = common / (sizes[has][:, None] + sizes[has][None] - common)
    linked = np.zeros((n, n), dtype=bool)
    linked[links.triples[:, 0], links.triples[:, 2]] = True
    linked = (linked | linked.T)[np.ix_(has, has)]
    upper = np.triu(np.ones_like(linked), 1)
    groups = {"with side effects": jaccard[linked & upper], "all pairs": jaccard[upper]}
    figure, axis = plt.subplots(figsize=(5.5, 3.6))
    grid = np.linspace(0, 1, 400)
    for name, values in groups.items():
        share = [100 * (values > x).mean() for x in grid]
        axis.plot(grid, share, label=f"{name} ({len(values):,} pairs)")
    axis.set(xlabel="Jaccard similarity of the two drugs' targets", ylabel="pairs above it, %", ylim=0)
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    _save(figure, out / "decagon_targets.png")
    others = jaccard[~linked & upper]
    return {
        "drugs_with_targets": len(has),
        "mean_jaccard_with_side_effects": float(groups["with side effects"].mean()),
        "mean_jaccard_without": float(others.mean()),
        "mean_jaccard_random": float(groups["all pairs"].mean()),
        "share_any_with_side_effects": float((groups["with side effects"] > 0).mean()),
        "share_any_random": float((groups["all pairs"] > 0).mean()),
        "mann_whitney_p_with_against_without": float(
            mannwhitneyu(groups["with side effects"], others, alternative="greater").pvalue
        ),
    }


def frequencies(links: Links, out: Path) -> dict[str, Any]:
    """Pairs of each side effect, from the most frequent one on."""
    counts = links.triples[:, 1].bincount(minlength=links.num_relations)
    ordered, order = counts.sort(descending=True)
    figure, axis = plt.subplots(figsize=(5.5, 3.6))
    axis.plot(np.arange(1, len(ordered) + 1), ordered)
    axis.axhline(500, color="grey", linestyle=":", label="500 pairs")
    axis.set(yscale="log", xlabel="side effects, the most frequent first", ylabel="drug pairs")
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    _save(figure, out / "decagon_frequencies.png")
    return {
        "side_effects": links.num_relations,
        "median_pairs": float(counts.median()),
        "most_frequent": {links.titles[r]: int(counts[r]) for r in order[:5].tolist()},
        "half_of_all_links_in_the_first": int((ordered.cumsum(0) < ordered.sum() / 2).sum()) + 1,
        "with_500_or_more": int((counts >= 500).sum()),
    }


def cooccurrence(links: Links, out: Path, number: int = 30) -> dict[str, Any]:
    """Correlation, over the pairs that have any, of having one side effect and having another."""
    pair = (links.triples[:, 0] * links.num_nodes + links.triples[:, 2]).unique(return_inverse=True)[1]
    counts = links.triples[:, 1].bincount(minlength=links.num_relations)
    number = min(number, links.num_relations)
    top = counts.topk(number).indices
    column = torch.full((links.num_relations,), -1)
    column[top] = torch.arange(number)
    own = column[links.triples[:, 1]]
    matrix = np.zeros((int(pair.max()) + 1, number), dtype=np.float32)
    matrix[pair[own >= 0], own[own >= 0]] = 1
    phi = np.corrcoef(matrix.T)
    order = leaves_list(linkage(matrix.T, "average", metric="correlation"))
    names = [links.titles[int(top[i])].lower() for i in order]
    figure, axis = plt.subplots(figsize=(8, 7))
    shown = phi[np.ix_(order, order)].copy()
    np.fill_diagonal(shown, np.nan)
    image = axis.imshow(shown, cmap="magma", vmin=0)
    axis.set_xticks(range(number), names, rotation=90, fontsize=7)
    axis.set_yticks(range(number), names, fontsize=7)
    figure.colorbar(image, label="correlation over drug pairs", shrink=0.8)
    _save(figure, out / "decagon_cooccurrence.png")
    pairs = [(float(phi[i, j]), i, j) for i in range(number) for j in range(i)]
    best = sorted(pairs, reverse=True)[:5]
    return {f"{links.titles[int(top[i])]} and {links.titles[int(top[j])]}": round(c, 3) for c, i, j in best}


def _save(figure: Any, file: Path) -> None:
    figure.savefig(file, dpi=110, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    """Draw the figures and print their numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=Path("."))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    files = [args.folder / f"bio-decagon-{name}.csv.gz" for name in ("combo", "targets")]
    links, targets = read_links(files[0], context=files[1:])
    result = {
        "targets": shared_targets(links, targets, args.output),
        "frequencies": frequencies(links, args.output),
        "cooccurrence": cooccurrence(links, args.output),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
