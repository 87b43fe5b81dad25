"""R-GCN: edges of several types, aggregated separately."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from encoders.adjacency import Adjacency
from encoders.graph_layers import Features, Linear, split
from encoders.message_passing import Reduce, aggregate


class RGCN(nn.Module):
    r"""h'_v = W₀ h_v + Σ_r W_r AGGREGATE{ h_u : u →_r v } + b (Schlichtkrull et al. 2018, arXiv 1703.06103).

    The paper's AGGREGATE is the mean. With ``num_bases``, W_r = Σ_b a_rb V_b. No relations × nodes
    × width tensor is ever made. Edges go one relation at a time, over the nodes that it reaches. With bases,
    relations whose edges u → v lie beside more of other relations' than there are bases go together,
    Σ_r Σ_b a_rb V_b Σ_{u→_r v} h_u = Σ_b V_b Σ_{u→v} (Σ_{r: u→_r v} a_rb) h_u:
    one edge u → v whose factors are sums of theirs. The 7.3 million edges between drugs of a polypharmacy
    network are 127 thousand then.

    Args:
        num_in: width of h.
        num_out: width of h'.
        num_relations: R; edge types are 0 … R-1.
        num_bases: B; None gives every relation its own matrix.
        aggregate: ``sum``, ``mean``, ``max`` or ``min`` within a relation; the last two want
            ``num_bases`` None.
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        *,
        num_relations: int,
        num_bases: int | None = None,
        aggregate: Reduce = "mean",
    ) -> None:
        super().__init__()
        if num_bases is not None and aggregate not in ("sum", "mean"):
            raise ValueError(
                f"aggregate {aggregate!r} does not go with num_bases; use sum or mean, or no bases"
            )
        self.num_relations, self.reduce = num_relations, aggregate
        self.weight = nn.Parameter(torch.empty(num_bases or num_relations, num_in, num_out))
        nn.init.xavier_uniform_(self.weight)
        self.coefficients = None
        if num_bases is not None:
            self.coefficients = nn.Parameter(torch.empty(num_relations, num_bases))
            nn.init.xavier_uniform_(self.coefficients)
        self.self_linear = Linear(num_in, num_out)

    def forward(self, adjacency: Adjacency, x: Features) -> Tensor:
        """One convolution over every relation; edge weights multiply the messages of sums and means."""
        source, target = split(x)
        if adjacency.type is None:
            raise ValueError(
                "R-GCN needs edge_type and the batch's edge_type is None; give every edge a type"
            )
        if adjacency.num_edges and int(adjacency.type.max()) >= self.num_relations:
            raise ValueError(
                f"edge_type reaches {int(adjacency.type.max())}, expected less than num_relations = "
                f"{self.num_relations}"
            )
        if self.coefficients is None:
            messages = self._by_relation(adjacency, source, self.weight, adjacency.weight)
            return self.self_linear(target) + messages
        return self.self_linear(target) + self._by_basis(adjacency, source)

    def _by_basis(self, adjacency: Adjacency, source: Tensor) -> Tensor:
        assert self.coefficients is not None
        part = parallel(adjacency, len(self.weight))
        matrices = {
            r: torch.einsum("b,bio->io", self.coefficients[r], self.weight) for r in part.rest.relations
        }
        alone = None if adjacency.weight is None else adjacency.weight[part.others]
        out = self._by_relation(part.rest, source, matrices, alone)
        if not part.types.num_edges:
            return out
        weight = None if adjacency.weight is None else adjacency.weight[part.order]
        if self.reduce == "mean":
            mean = part.mean.to(source.dtype)
            weight = mean if weight is None else weight * mean
        factors = aggregate(part.types, self.coefficients[: part.types.num_src], "sum", weight)
        for basis, matrix in enumerate(self.weight):
            out = out + aggregate(part.merged, source, "sum", factors[:, basis].contiguous()) @ matrix
        return out

    def _by_relation(
        self,
        adjacency: Adjacency,
        source: Tensor,
        matrices: dict[int, Tensor] | Tensor,
        weight: Tensor | None,
    ) -> Tensor:
        out = source.new_zeros(adjacency.num_dst, self.weight.shape[2])
        for relation, (nodes, edges, part) in adjacency.relations.items():
            messages = aggregate(part, source, self.reduce, None if weight is None else weight[edges])
            product = messages @ matrices[relation]  # shorter under autocast
            out = out.index_add(0, nodes, product.to(out.dtype))
        return out


@dataclass(frozen=True)
class Parallel:
    """Edges parted in two: types whose edges mostly lie beside others', and the rest.

    Attributes:
        merged: one edge for every u → v that has edges of the first kind.
        types: edges from types to edges of ``merged``, one for each edge of the first kind.
        order: those edges' numbers, in the order of ``types``.
        mean: 1 over `Adjacency.edges_of_same_type`, in that order, float64.
        rest: the other edges, without weights.
        others: their numbers.
    """

    merged: Adjacency
    types: Adjacency
    order: Tensor
    mean: Tensor
    rest: Adjacency
    others: Tensor


_PARTED: WeakKeyDictionary[Adjacency, dict[int, Parallel]] = WeakKeyDictionary()


def parallel(adjacency: Adjacency, num_bases: int) -> Parallel:
    """The edges parted by whether their type is worth laying together, kept as long as they are."""
    kept = _PARTED.setdefault(adjacency, {})
    if num_bases not in kept:
        with torch.inference_mode(False):  # for training too, which saves no tensor that inference made
            kept[num_bases] = _part_parallel(adjacency, num_bases)
    return kept[num_bases]


def _part_parallel(adjacency: Adjacency, num_bases: int) -> Parallel:
    """A type's edges are laid together with others' where these are more than the bases, on average."""
    if adjacency.type is None:
        raise ValueError("the edges have no type")
    key = adjacency.dst * adjacency.num_src + adjacency.src
    _, place, counts = key.unique(return_inverse=True, return_counts=True)
    num_types = int(adjacency.type.max()) + 1 if adjacency.num_edges else 0
    beside = adjacency.type.bincount(counts[place].double(), minlength=num_types)
    together = (beside > num_bases * adjacency.type.bincount(minlength=num_types))[adjacency.type]
    edges = together.nonzero()[:, 0]
    order = edges[key[edges].argsort(stable=True)]
    found, place = key[order].unique_consecutive(return_inverse=True)
    sizes = adjacency.num_src, adjacency.num_dst
    merged = Adjacency(found % sizes[0], found // sizes[0], *sizes)
    others = (~together).nonzero()[:, 0]
    rest = Adjacency(adjacency.src[others], adjacency.dst[others], *sizes, type=adjacency.type[others])
    mean = adjacency.edges_of_same_type[order].double().reciprocal()
    types = Adjacency(adjacency.type[order], place, num_types, len(found))
    return Parallel(merged, types, order, mean, rest, others)
