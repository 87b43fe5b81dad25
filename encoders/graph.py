"""GraphEncoder: layers of message passing, jumping knowledge and a readout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from encoders.adjacency import exporting
from encoders.feature_encoder import FeatureEncoder, require_columns
from encoders.graph_batch import GraphBatch
from encoders.graph_convolutions import GAT, GCN, PNA, GATv2, Propagation
from encoders.graph_layers import GIN, GINE, GraphLayer, GraphSAGE
from encoders.message_passing import pick
from encoders.molecules import categories
from encoders.readout import Readout, ReadoutName, VirtualNode, make_readout
from encoders.relational import RGCN
from encoders.sharing import batch_norm, colour, treats_rows_alike

LayerName = Literal["gin", "gine", "gcn", "sage", "gat", "gatv2", "rgcn", "pna", "custom"]
Activation = Literal["relu", "prelu", "elu"]

_LAYERS: dict[str, type[nn.Module]] = {
    "gin": GIN,
    "gine": GINE,
    "gcn": GCN,
    "sage": GraphSAGE,
    "gat": GAT,
    "gatv2": GATv2,
    "rgcn": RGCN,
    "pna": PNA,
    "custom": GraphLayer,
}
_READ_EDGES = ("gine", "gatv2", "pna", "custom")  # the layers that take edge_features
# no layer and no norm needs its output for the gradient, so ReLU may overwrite it
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "prelu": nn.PReLU,
    "elu": nn.ELU,
}


class GraphEncoder(nn.Module):
    """``encoder(batch)`` gives one row a graph, ``encoder.nodes(batch)`` one row a node.

    h⁰ = embedding of x; hˡ = dropout(activation(norm(LAYER(hˡ⁻¹)))); h = JK(h¹ … hᴸ); g = READOUT(h).

    Args:
        node_features: the width of float ``x``, or the categories of each column of integer ``x``;
            ``atoms`` is what ``GraphBatch.from_smiles`` gives.
        edge_features: the same for ``edge_attr``; ``bonds`` is what ``from_smiles`` gives; None ignores it.
        num_hidden: width of every layer.
        num_layers: L.
        layer: ``custom`` is :class:`~encoders.graph_layers.GraphLayer`, any AGGREGATE with any COMBINE.
        layer_args: further arguments of the layer, as ``{num_heads: 8}``; ``rgcn`` needs ``num_relations``.
        input_layer: map float ``x`` to ``num_hidden`` linearly first; categories always are.
        norm: batch norm after every layer.
        activation: after the norm.
        last_activation: whether the last layer has one too.
        dropout: probability, after the activation.
        residual: add hˡ⁻¹ to hˡ where the widths agree.
        jumping_knowledge: ``last`` layer, or ``concat``, ``max`` or ``sum`` of all (Xu et al.
            2018, arXiv 1806.03536).
        readout: ``virtual_node`` adds a node joined to all others and reads it out; it needs h⁰ of width
            ``num_hidden``, so categories or ``input_layer``.
        share_equal_nodes: compute nodes with equal surroundings once, see :mod:`encoders.sharing`; the same
            result, on molecules with all atom features 1.4 to 1.6 times as fast. For categorical features,
            and not for ``gcn``, ``rgcn`` and ``virtual_node``, where more counts. Training with dropout
            shares nothing, for each node draws its own, nor does it with synchronised batch norms, or norms
            of your own.

    Attributes:
        num_features: width of the rows of ``encoder(batch)``.
        num_node_features: width of the rows of ``encoder.nodes(batch)``.
    """

    takes_graphs = True  # so that nothing normalises its inputs like images

    def __init__(
        self,
        *,
        node_features: int | list[int] | Literal["atoms"],
        edge_features: int | list[int] | Literal["bonds"] | None = None,
        num_hidden: int = 256,
        num_layers: int = 3,
        layer: LayerName = "gin",
        layer_args: dict[str, Any] | None = None,
        input_layer: bool = False,
        norm: bool = True,
        activation: Activation = "relu",
        last_activation: bool = True,
        dropout: float = 0.0,
        residual: bool = False,
        jumping_knowledge: Literal["last", "concat", "max", "sum"] = "last",
        readout: ReadoutName = "sum",
        share_equal_nodes: bool = False,
    ) -> None:
        super().__init__()
        if num_layers < 1 or num_hidden < 1:
            raise ValueError(f"num_layers is {num_layers} and num_hidden {num_hidden}; both are 1 at least")
        if jumping_knowledge not in ("last", "concat", "max", "sum"):
            raise ValueError(f"jumping_knowledge {jumping_knowledge!r}: expected last, concat, max or sum")
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation {activation!r}: expected {', '.join(_ACTIVATIONS)}")
        self.node_features = categories(node_features)
        self.embed, width = _embedding(self.node_features, num_hidden, input_layer)
        arguments = _layer_arguments(layer, layer_args, edge_features)
        widths = [width] + [num_hidden] * num_layers
        make: Callable[..., nn.Module] = _LAYERS[layer]
        self.layers = nn.ModuleList(make(i, o, **arguments) for i, o in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(num_hidden) if norm else nn.Identity() for _ in self.layers)
        self.activations = nn.ModuleList(_ACTIVATIONS[activation]() for _ in self.layers)
        if not last_activation:
            self.activations[-1] = nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.residual, self.jumping_knowledge = residual, jumping_knowledge
        self.num_node_features = num_hidden * (num_layers if jumping_knowledge == "concat" else 1)
        self.readout, self.num_features = make_readout(readout, self.num_node_features)
        self.share_equal_nodes = share_equal_nodes
        self.reads_edges = arguments.get("edge_features") is not None
        if share_equal_nodes:
            _require_sharing(layer, readout, self.node_features, arguments.get("edge_features"))
        self.virtual = nn.ModuleList()
        if readout == "virtual_node":
            self._add_virtual_nodes(width, num_hidden)

    def _add_virtual_nodes(self, width: int, num_hidden: int) -> None:
        if width != num_hidden or self.jumping_knowledge == "concat":
            raise ValueError(
                "readout virtual_node needs width num_hidden throughout: set input_layer to true and "
                "jumping_knowledge to another than concat"
            )
        self.virtual_start = nn.Parameter(torch.zeros(num_hidden))
        self.virtual = nn.ModuleList(VirtualNode(num_hidden) for _ in self.layers)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Features of the graphs, ``(num_graphs, num_features)``."""
        outputs, virtual = self._encode(batch)
        if virtual is not None:
            return virtual
        if self.jumping_knowledge == "concat" and isinstance(self.readout, Readout):
            # which works column by column: layers side by side need not be written for all nodes
            return torch.cat([self.readout(batch, h) for h in outputs], dim=1)
        return self.readout(batch, self._jump(outputs))

    def nodes(self, batch: GraphBatch) -> Tensor:
        """Features of the nodes, ``(num_nodes, num_node_features)``."""
        return self._jump(self._encode(batch)[0])

    def nodes_and_graphs(self, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        """Both from one pass, for losses between nodes and graphs."""
        outputs, virtual = self._encode(batch)
        nodes = self._jump(outputs)
        return nodes, self.readout(batch, nodes) if virtual is None else virtual

    def _encode(self, batch: GraphBatch) -> tuple[list[Tensor], Tensor | None]:
        """The nodes after every layer, and the virtual nodes where there are any."""
        if not isinstance(batch, GraphBatch):
            raise TypeError(
                f"{type(self).__name__} takes a GraphBatch, not a {type(batch).__name__}; "
                "GraphBatch.from_pyg, from_dgl and, of several, concatenate make one"
            )
        if self._shares():
            return self._encode_shared(batch), None
        if self.embed is None:
            require_columns(batch.x, self.node_features)
        h = batch.x if self.embed is None else self.embed(batch.x)
        virtual = cast("list[VirtualNode]", self.virtual)  # a ModuleList forgets what it holds
        g = self.virtual_start.expand(batch.num_graphs, -1) if virtual else None
        outputs: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            if g is not None:
                h = virtual[i].spread(batch, g, h)
            out = self.dropout(self.activations[i](self.norms[i](layer(batch.adjacency, h))))
            h = out + h if self.residual and out.shape == h.shape else out
            if g is not None:
                g = virtual[i].collect(batch, g, h)
            outputs.append(h)
        return outputs, g

    def _shares(self) -> bool:
        """Whether equal nodes are computed once: not where each draws its own, or all processes' count."""
        if not self.share_equal_nodes or exporting():  # a program cannot foresee how many are equal
            return False
        draws = self.dropout.training and self.dropout.p > 0  # in eval mode too, for Monte Carlo dropout
        return not draws and all(treats_rows_alike(norm) for norm in self.norms)

    def _encode_shared(self, batch: GraphBatch) -> list[Tensor]:
        seen = batch if self.reads_edges else batch.with_features(edge_attr=None)
        first, *levels = colour(seen, len(self.layers))
        h = cast("FeatureEncoder", self.embed)(batch.x[first.nodes])
        outputs = []
        for i, (layer, level) in enumerate(zip(self.layers, levels)):
            target = pick(h, cast(Tensor, level.previous))
            out = self.activations[i](batch_norm(self.norms[i], layer(level.edges, (h, target)), level))
            h = out + target if self.residual and out.shape == target.shape else out
            outputs.append(
                pick(h, level.of_node) if i == len(levels) - 1 or self.jumping_knowledge != "last" else h
            )
        return outputs

    def _jump(self, outputs: Sequence[Tensor]) -> Tensor:
        if self.jumping_knowledge == "last":
            return outputs[-1]
        if self.jumping_knowledge == "concat":
            return torch.cat(list(outputs), dim=1)
        stacked = torch.stack(list(outputs))
        return stacked.amax(0) if self.jumping_knowledge == "max" else stacked.sum(0)


class NodeEncoder(GraphEncoder):
    """``encoder(batch)`` gives one row a node, of those in ``batch.target`` where it is set.

    Args:
        propagation: steps of personalised PageRank after the last layer, see
            :class:`~encoders.graph_convolutions.Propagation`; 0 for none. Where neighbours are sampled, as
            many more hops are needed.
        teleport: α of the propagation.
        arguments: those of `GraphEncoder`; the readout is not used. ``num_features`` is
            ``num_node_features``.
    """

    def __init__(self, *, propagation: int = 0, teleport: float = 0.1, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.propagation = Propagation(propagation, teleport=teleport)
        self.num_features = self.num_node_features

    def forward(self, batch: GraphBatch) -> Tensor:
        """Features of the nodes, ``(num_nodes or number of targets, num_features)``."""
        return _targets(batch, self.propagation(batch.adjacency, self.nodes(batch)))

    def local(self, batch: GraphBatch) -> Tensor:
        """The same before propagation, for losses that tell a node's surroundings from others."""
        return _targets(batch, self.nodes(batch))


def _targets(batch: GraphBatch, h: Tensor) -> Tensor:
    return h if batch.target is None else h[batch.target]


def _layer_arguments(layer: str, layer_args: dict[str, Any] | None, edge_features: Any) -> dict[str, Any]:
    """What a layer is built with beside its widths; ValueError where it does not go with the layer."""
    arguments = dict(layer_args or {})
    if edge_features is not None:
        arguments["edge_features"] = categories(edge_features)
    edge_features = arguments.get("edge_features")
    if layer not in _LAYERS:
        raise ValueError(f"layer {layer!r}: expected {', '.join(_LAYERS)}")
    if edge_features is not None and layer not in _READ_EDGES:
        raise ValueError(
            f"layer {layer} takes no edge_features: set them to null, or take one of {', '.join(_READ_EDGES)}"
        )
    if edge_features is None and layer == "gine":
        raise ValueError("layer gine needs edge_features: give their width or categories, or take gin")
    if layer == "rgcn" and "num_relations" not in arguments:
        raise ValueError("layer rgcn needs layer_args {num_relations: R}, the number of edge types")
    return arguments


def _require_sharing(layer: LayerName, readout: ReadoutName, node_features: Any, edge_features: Any) -> None:
    """Raise ValueError where equal surroundings do not make nodes equal, or can hardly be found."""
    if layer in ("gcn", "rgcn") or readout == "virtual_node":
        raise ValueError("share_equal_nodes does not go with gcn, rgcn or virtual_node; set it to false")
    if isinstance(node_features, int) or isinstance(edge_features, int):
        raise ValueError("share_equal_nodes needs categorical node and edge features; set it to false")


def _embedding(inputs: int | list[int], num_hidden: int, input_layer: bool) -> tuple[nn.Module | None, int]:
    if isinstance(inputs, int) and not input_layer:
        return None, inputs
    return FeatureEncoder(inputs, num_hidden), num_hidden
