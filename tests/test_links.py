"""Link prediction end to end: it learns, resumes, is evaluated by the command."""

import csv
import json
from functools import partial

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from sklearn.neighbors import NearestNeighbors

from contrastive.data.links import LinkData
from contrastive.errors import ContrastiveError
from contrastive.evaluation.link_page import page
from contrastive.evaluation.link_report import new_links, rank_links
from contrastive.methods.links import LinkPrediction, open_links, score_triples
from encoders.decoders import ComplEx, DistMult, Dot, SimplE
from encoders.graph_batch import GraphBatch
from encoders.links import LinkGraph, LinkModel, NodeTable, RelationalNodes
from encoders.relational import RGCN


@pytest.fixture(scope="module")
def links_csv(tmp_path_factory):
    """40 nodes in four groups: relation r links groups whose sum is r, and one pair in twelve at random."""
    rng = np.random.default_rng(0)
    rows = ["head,relation,tail"]
    for r in range(2):
        for u in range(40):
            for v in range(u):
                if (u + v) % 4 == r or rng.random() < 1 / 12:
                    rows.append(f"n{u},r{r},n{v}")
    file = tmp_path_factory.mktemp("links") / "links.csv"
    file.write_text("\n".join(rows))
    return file


def arguments(links_csv, folder, *more):
    settings = {
        "config": "configs/link/decagon.yaml",
        "data.init_args.source": links_csv,
        "data.init_args.undirected": "true",
        "data.init_args.min_links": 1,
        "data.init_args.batch_size": 64,
        "run_dir": folder,
        "wandb": "off",
        "trainer.enable_progress_bar": "false",
    }
    return ["pretrain", *(f"--{key}={value}" for key, value in settings.items()), *more]


def test_a_run_is_evaluated_by_the_command(command, links_csv, tmp_path):
    done = command(*arguments(links_csv, tmp_path / "whole", "--trainer.max_epochs=20"))
    assert done.returncode == 0, done.stderr
    assert "val_median_auroc" in done.stdout and "peak_gib" in done.stdout
    with (tmp_path / "whole" / "metrics.csv").open() as file:
        assert any(row.get("val_median_auroc") for row in csv.DictReader(file))
    done = command("links", tmp_path / "whole", "--num_predictions=5", "--num_ranked=20")
    assert done.returncode == 0, done.stderr
    results = tmp_path / "whole" / "results"
    result = json.loads((results / "links.json").read_text())
    assert result["summary"]["median_auroc"] > 0.7
    assert 0 < result["ranking"]["mrr"] <= 1 and len(result["best"]) == 2
    with (results / "predictions.csv").open() as file:
        predicted = list(csv.DictReader(file))
    known = {(r, *sorted((u, v))) for u, r, v in csv.reader(links_csv.open())}
    assert len(predicted) == 5
    asked = {(row["relation"], *sorted((row["head"], row["tail"]))) for row in predicted}
    assert len(asked) == 5 and not asked & known
    assert (results / "predictions.html").read_text().count("<tr>") == 6
    done = command("neighbours", tmp_path / "whole", "--query", "n7,n0", "--k", 3)
    assert done.returncode == 0 and "nearest to n7, of 40 of type node" in done.stdout, done.stderr
    found = json.loads((tmp_path / "whole" / "plots" / "neighbours" / "neighbours.json").read_text())
    module, data = open_links(tmp_path / "whole")
    h, names = module.model.nodes().detach().numpy(), data.split.links.nodes
    for asked in found["queries"]:
        _, nearest = (
            NearestNeighbors(n_neighbors=4, metric="cosine")
            .fit(h)
            .kneighbors(h[[names.index(asked["query"])]])
        )
        assert [n["node"] for n in asked["neighbours"]] == [names[i] for i in nearest[0][1:]]
    done = command("neighbours", tmp_path / "whole", "--query", "n99")
    assert done.returncode == 1 and "has no node 'n99'; its 40 nodes are called like" in done.stderr
    done = command("export", tmp_path / "whole", "--output", tmp_path / "export")
    assert (
        done.returncode == 1 and "whole predicts links, with features of its own nodes alone" in done.stderr
    )


def test_an_opened_run_has_the_split_of_its_seed(command, links_csv, tmp_path):
    """Else most of what it is tested on would be what it was trained on."""
    done = command(*arguments(links_csv, tmp_path / "run", "--trainer.max_epochs=1", "--seed_everything=3"))
    assert done.returncode == 0, done.stderr
    trained = LinkData(str(links_csv), undirected=True, seed=3)
    trained.setup()
    _, opened = open_links(tmp_path / "run")
    assert opened.seed == 3 and torch.equal(opened.split.test.positive, trained.split.test.positive)


def test_a_model_of_other_links_is_refused(command, links_csv, tmp_path):
    """Its rows would be taken for other nodes, and most of the test part would be what it was trained on."""
    source = tmp_path / "links.csv"
    source.write_text(links_csv.read_text())
    assert command(*arguments(source, tmp_path / "run", "--trainer.max_epochs=1")).returncode == 0
    header, *rows = links_csv.read_text().splitlines()
    source.write_text("\n".join([header, *rows[::-1]]))
    message = "the links are not those that the model was trained on, or not in their order"
    done = command("links", tmp_path / "run")
    assert done.returncode == 1 and f"run do not fit {source}: {message}" in done.stderr
    done = command(*arguments(source, tmp_path / "run", "--trainer.max_epochs=1", "--ckpt_path=last"))
    assert done.returncode == 1 and message in done.stderr
    done = command(
        "links", tmp_path / "run", f"--source={links_csv}", "--num_ranked=5", "--num_predictions=1"
    )
    assert done.returncode == 0, done.stderr


def test_a_model_of_a_run_without_a_fingerprint_is_opened(links_csv):
    data = LinkData(str(links_csv), undirected=True)
    data.setup()
    module = LinkPrediction()
    module.build(data)
    state = module.state_dict()
    del state["fingerprint"]
    module.on_load_checkpoint({"state_dict": state})
    module.load_state_dict(state)


def test_a_damaged_checkpoint_is_named(command, links_csv, tmp_path):
    done = command(*arguments(links_csv, tmp_path / "run", "--trainer.max_epochs=1"))
    assert done.returncode == 0, done.stderr
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    done = command("links", tmp_path / "run")
    assert done.returncode == 1 and "last.ckpt is not a checkpoint" in done.stderr
    assert "Traceback" not in done.stderr


def test_users_and_items_of_one_relation(command, tmp_path):
    rows = [f"{u},{i},{1 + (u * i) % 5}" for u in range(20) for i in range(30) if (u + i) % 3]
    (tmp_path / "ratings.csv").write_text("\n".join(["userId,movieId,rating", *rows]))
    settings = {"data.init_args.source": tmp_path / "ratings.csv", "data.init_args.batch_size": 8}
    settings |= {"run_dir": tmp_path / "run", "wandb": "off", "trainer.max_epochs": 1}
    options = [f"--{key}={value}" for key, value in settings.items()]
    done = command("pretrain", "--config", "configs/link/recommend.yaml", *options)
    assert done.returncode == 0, done.stderr
    done = command("links", tmp_path / "run", "--num_predictions=3")
    result = json.loads((tmp_path / "run" / "results" / "links.json").read_text())
    number = result["protocol"]["links"]["test"]
    assert result["ranking"]["num_links"] == number < 1000
    assert f"filtered ranking of {number} links: mrr" in done.stdout
    assert result["summary"]["mean_auroc"] >= 0 and result["summary"]["mean_auroc_ci95"] is None
    done = command("neighbours", tmp_path / "run", "--query", "3", "--k", 2)
    assert all(f"of type {kind}" in done.stdout for kind in ("user", "item"))


@pytest.mark.parametrize("queries", ["tails", "triples"])
def test_a_resumed_run_ends_as_one_that_was_not_cut_off(links_csv, tmp_path, queries):
    def fit(**settings):
        evidence = "all" if queries == "triples" else "none"
        data = LinkData(str(links_csv), undirected=True, queries=queries, batch_size=16, evidence=evidence)
        module = LinkPrediction(lambda graph: NodeTable(graph, num_features=8), DistMult, dropout=0.3)
        each = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False)
        Trainer(max_epochs=4, accelerator="cpu", callbacks=[each], **quiet).fit(module, data, **settings)
        return module.state_dict()

    whole, resumed = fit(), fit(ckpt_path=str(tmp_path / "epoch=1.ckpt"))
    assert whole.keys() == resumed.keys() and len(whole) > 3
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0)


WAYS = {
    "one": (["a,cites,b", "b,cites,c", "c,cites,d", "d,cites,a"] * 5, "cites"),
    "most": (["a,r,b", "b,r,a", "c,r,d", "d,r,e", "e,r,c"] * 5, "r"),
    "both": ([f"{u},r,{v}" for u in "abcdef" for v in "abcdef" if ord(u) + ord(v) & 1 and u != v], None),
    "types": ([f"u{i},buys,i{j}" for i in range(5) for j in range(4)], None),
}


@pytest.mark.parametrize("decoder", [DistMult, Dot, ComplEx, partial(SimplE, symmetric=True)])
@pytest.mark.parametrize("ways", WAYS)
def test_a_symmetric_decoder_of_links_of_one_direction_is_told_of_once(ways, decoder, tmp_path, caplog):
    rows, one_way = WAYS[ways]
    file = tmp_path / "links.csv"
    file.write_text("\n".join(["head,relation,tail", *rows, *(f"x{i},other,y{i}" for i in range(20))]))
    data = LinkData(str(file), batch_size=4)
    module = LinkPrediction(lambda graph: NodeTable(graph, num_features=4), decoder)
    quiet = dict(
        logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False
    )
    trainer = Trainer(max_epochs=2, accelerator="cpu", **quiet)
    trainer.fit(module, data)
    said = [message for message in caplog.messages if "alike" in message]
    told = one_way is not None and decoder is not ComplEx
    assert len(said) == told
    if told:
        assert f"scores u→v and v→u alike, but links of {one_way} mostly have one direction: take" in said[0]


def graph_of(num_nodes=12, features=None):
    generator = torch.Generator().manual_seed(0)
    edges = torch.randint(num_nodes, (2, 60), generator=generator)
    types = torch.randint(3, (60,), generator=generator)
    batch = GraphBatch.from_edges(edges.T.tolist(), torch.arange(num_nodes).unsqueeze(1), edge_type=types)
    return LinkGraph(num_nodes, 3, lambda: (batch, 3), features)


def test_nodes_are_free_vectors_features_or_both():
    features = torch.randn(12, 5)
    free = NodeTable(graph_of(), num_features=8)
    assert torch.equal(free(), free.free)
    both = NodeTable(graph_of(features=features), num_features=8)
    torch.testing.assert_close(both(), both.free + both.map(features))
    mapped = NodeTable(graph_of(features=features), num_features=8, free=False, num_hidden=16)
    assert mapped.free is None and mapped().shape == (12, 8)
    with pytest.raises(ValueError, match="no features"):
        NodeTable(graph_of(), free=False)


@pytest.mark.parametrize("encoder", [NodeTable, RelationalNodes])
def test_without_free_vectors_no_node_has_a_bias_of_its_own(encoder):
    """A node that training sees no link of would have none, and be less likely than the others for it."""
    graph = graph_of(features=torch.randn(12, 5))
    for free in (True, False):
        model = LinkModel(graph, partial(encoder, num_features=8, free=free), DistMult)
        assert model.node_bias.requires_grad == free


def test_relational_nodes_take_every_relation_apart(kernels):
    encoder = RelationalNodes(graph_of(), num_features=8, num_layers=1, num_bases=2)
    layer, edges = encoder.layers[0], encoder.edges
    h = encoder.nodes()
    expected = layer.self_linear(h)
    weight = torch.einsum("rb,bio->rio", layer.coefficients, layer.weight)
    for r in range(3):
        adjacency = torch.zeros(12, 12)
        own = edges.edge_type == r
        adjacency.index_put_((edges.dst[own], edges.src[own]), torch.ones(int(own.sum())), accumulate=True)
        mean = adjacency / adjacency.sum(dim=1, keepdim=True).clamp(min=1)
        expected = expected + mean @ h @ weight[r]
    torch.testing.assert_close(encoder(), h + expected)


def test_parallel_edges_have_the_gradient_of_single_ones(kernels):
    """Parallel edges summed first: outputs and gradients are those of a matrix a relation."""
    torch.manual_seed(0)
    batch = graph_of(5).make_edges()[0]  # 60 edges between 5 nodes: most are parallel
    based = RGCN(4, 3, num_relations=3, num_bases=2).double()
    single = RGCN(4, 3, num_relations=3).double()
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        single.weight.copy_(torch.einsum("rb,bio->rio", based.coefficients, based.weight))
        single.self_linear.load_state_dict(based.self_linear.state_dict())
    outputs, gradients = [], []
    for layer in (based, single):
        x.grad = None
        out = layer(batch.adjacency, x)
        out.square().sum().backward()
        outputs.append(out)
        gradients.append(x.grad.clone())
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)
    expected = torch.einsum("rio,bio->rb", single.weight.grad, based.weight)
    torch.testing.assert_close(based.coefficients.grad, expected)


def test_evidence_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="set queries to triples"):
        LinkData("links.csv", evidence="all")
    with pytest.raises(ValueError, match="set evidence to ends"):
        LinkData("links.csv", queries="triples", evidence="all", split="pairs")


@pytest.mark.parametrize("queries", ["tails", "triples"])
def test_a_training_step_is_the_loss_of_single_triples(links_csv, queries):
    """The dense loss with its masks against one triple after another, in float64."""
    data = LinkData(str(links_csv), undirected=True, queries=queries, batch_size=32)
    data.setup()
    module = LinkPrediction(lambda graph: NodeTable(graph, num_features=8), DistMult).double()
    module.build(data)
    module.double()

    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    batch = next(iter(data.train_dataloader()))
    loss = module.loss(module.score(batch.input).double(), batch.input.positive, batch.input.negative)
    split, model = data.split, module.model
    train = set(map(tuple, split.train.tolist()))
    h, total, count = model.nodes(), 0.0, 0
    for q in range(len(batch.index)):
        if queries == "tails":
            head, relation = int(batch.input.head[q]), int(batch.input.relation[q])
            candidates = [(head, relation, t) for t in batch.input.tail.tolist()]
        else:
            candidates = [tuple(t) for t in batch.input.triples[q].tolist()]
        for u, r, v in candidates:
            key = (min(u, v), r, max(u, v))
            if u == v or split.is_hidden(torch.tensor([[u, r, v]]))[0]:
                continue
            s = (h[u] * model.decoder.weight[r] * h[v]).sum()
            s = s + model.relation_bias[r] + model.node_bias[u] + model.node_bias[v]
            total = total + torch.nn.functional.softplus(-s if key in train else s)
            count += 1
    torch.testing.assert_close(loss, total / count, rtol=1e-6, atol=1e-8)


def test_scores_that_are_no_numbers_are_no_success(links_csv):
    """No score is above nan, so that every link of a diverged model would be the first of its ranking."""
    data = LinkData(str(links_csv), undirected=True)
    data.setup()
    module = LinkPrediction()
    module.build(data)
    module.model.encoder.free.data[0] = torch.inf
    with pytest.raises(ContrastiveError, match="scores links as nan"):
        rank_links(module, data, 100, seed=0)


@pytest.mark.parametrize("evidence", ["none", "all"])
def test_new_links_are_the_best_of_all_pairs(links_csv, monkeypatch, evidence):
    """Looked for some heads at a time: all pairs of users and items at once would not fit in memory."""
    data = LinkData(str(links_csv), undirected=True, queries="triples", evidence=evidence)
    data.setup()
    module = LinkPrediction(partial(NodeTable, num_features=4))
    module.build(data)
    links = data.split.links
    n, known = links.num_nodes, set(map(tuple, links.triples.tolist()))
    pairs = {(u, v) for u, _, v in data.split.train.tolist()} if evidence == "all" else None
    left = [
        (u, r, v)
        for r in range(links.num_relations)
        for u in range(n)
        for v in range(u + 1, n)
        if (u, r, v) not in known and (pairs is None or (u, v) in pairs)
    ]
    scores = score_triples(module, torch.tensor(left), data.evidence)
    expected = [left[i] for i in scores.topk(20).indices.tolist()]
    for pairs_at_a_time in (2**22, 100, 1):
        monkeypatch.setattr("contrastive.evaluation.link_report.PAIRS", pairs_at_a_time)
        found = new_links(module, data, 20)
        assert [
            (links.nodes.index(row["head"]), int(row["relation"][1:]), links.nodes.index(row["tail"]))
            for row in found
        ] == expected


def test_the_page_escapes_names():
    row = {
        "head": "<b>",
        "relation": "r",
        "title": "t",
        "tail": "CID000002173",
        "score": 1.0,
        "probability": 0.7,
    }
    text = page([row], "run")
    assert "<b>" not in text and "&lt;b&gt;" in text and "CID+2173" in text


@pytest.mark.parametrize("what", ["absent", "other"])
def test_other_runs_are_refused(command, tmp_path, what):
    folder = tmp_path / what
    if what == "other":
        folder.mkdir()
        (folder / "config.yaml").write_text("model: {class_path: torch.nn.Identity}\ndata: {}\n")
    done = command("links", folder)
    assert done.returncode == 1
    assert "no run of link prediction" in done.stderr or "is not a run folder" in done.stderr
