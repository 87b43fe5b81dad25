"""Reading links, splitting them without a leak, and the queries that training sees."""

import gzip
from itertools import product

import numpy as np
import pytest
import torch

from contrastive.data.link_evidence import Evidence
from contrastive.data.link_files import read_links
from contrastive.data.link_queries import LinkPasses, TailQueries, TripleQueries
from contrastive.data.link_splits import contains, split_links
from contrastive.data.link_table import keep_relations, select_relations
from contrastive.data.links import decagon_files, read_features, typed_edges
from contrastive.errors import ContrastiveError

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


@pytest.fixture(params=[True, False], ids=["undirected", "directed"])
def links(request, tmp_path):
    return read_links(write_csv(tmp_path, request.param), undirected=request.param)[0]


def as_set(links, triples):
    return set(map(tuple, links.canonical(triples).reshape(-1, 3).tolist()))


def test_the_contract_is_read_once_a_link(tmp_path):
    file = tmp_path / "links.csv.gz"
    file.write_bytes(gzip.compress(b"relation,tail,head\nlikes,b,a\nlikes,b,a\nlikes,a,b\nknows,c,a\n"))
    links, context = read_links(file)
    assert links.nodes == ["a", "b", "c"] and links.relations == ["likes", "knows"]
    assert links.triples.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 2]]
    assert len(context.triples) == 0
    both, _ = read_links(file, undirected=True)
    assert both.triples.tolist() == [[0, 0, 1], [0, 1, 2]]


def test_the_columns_of_decagon_are_known(tmp_path):
    (tmp_path / "bio-decagon-combo.csv").write_text(
        "STITCH 1,STITCH 2,Polypharmacy Side Effect,Side Effect Name\n"
        "CID2,CID1,C01,nausea\nCID1,CID2,C02,fever\nCID1,CID3,C01,nausea\n"
    )
    (tmp_path / "bio-decagon-ppi.csv").write_text("Gene 1,Gene 2\n7,8\n")
    (tmp_path / "bio-decagon-targets.csv").write_text("STITCH,Gene\nCID1,7\n")
    sources, context = decagon_files(str(tmp_path), None)
    links, known = read_links(sources, context=context)
    assert links.titles == ["nausea", "fever"] and links.undirected.all()
    assert links.node_types == ["drug", "protein"] and links.node_type.tolist() == [0, 0, 0, 1, 1]
    assert known.relations == ["protein-protein", "target"] and known.undirected.tolist() == [True, False]
    assert links.pools[0][0].tolist() == [0, 1, 2]


def test_ratings_are_links_between_two_types(tmp_path):
    file = tmp_path / "ratings.csv"
    file.write_text("userId,movieId,rating\n1,1,5\n1,2,2\n2,1,4.5\n")
    columns = {"head": "userId", "tail": "movieId", "value": "rating"}
    links, _ = read_links(file, columns=columns, types=["user", "item"], min_value=4)
    assert links.nodes == ["1", "1", "2"] and links.node_type.tolist() == [0, 1, 0]
    assert links.triples.tolist() == [[0, 0, 1], [2, 0, 1]]


def test_a_context_without_types_beside_links_that_have_them_is_told_of(tmp_path, caplog):
    texts = {
        "links.csv": "head,tail\n1,2\n2,3\n",
        "friends.csv": "head,tail\n1,2\n",
        "typed.csv": "head,tail,head_type,tail_type\n1,2,user,user\n",
        "towns.csv": "head,tail,head_type\n1,Bonn,user\n",
    }
    links, friends, typed, towns = (tmp_path / name for name in texts)
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    read_links(links, context=[typed, towns], types=["user", "item"])
    read_links(links, context=[friends])
    assert not caplog.text
    read_links(links, context=[friends], types=["user", "item"])
    assert "friends.csv: none of its nodes is one of the links to predict, which are of type" in caplog.text


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n1,2\n", {}, "no column head"),
        ("head,relation,tail\na,r\n", {}, "line 2: 2 columns"),
        ("head,relation,tail\na,r,b\na,,b\n", {}, "line 3: a blank"),
        ("head,relation,tail\na,r,a\n", {"undirected": True}, "line 2: a is linked to itself"),
        ("head,tail,value\na,b,much\n", {"min_value": 1}, "line 2: the value is 'much'"),
        ("head,tail\na,b\n", {"min_value": 1}, "needs a column of values"),
        ("head,relation,tail\n", {}, "there is no link"),
        ("head,relation,tail\na,r,b\n", {"types": ["x"]}, "types has 1 names"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, options, message):
    file = tmp_path / "links.csv"
    file.write_text(text)
    with pytest.raises(ContrastiveError, match=message):
        read_links(file, **options)


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "broken.csv.gz").write_bytes(gzip.compress(b"head,tail\na,b\n" * 100)[:-20])
    for name, message in (
        ("absent.csv", "cannot be read"),
        ("links.parquet", "expected a .csv"),
        ("broken.csv.gz", "broken.csv.gz cannot be read"),
    ):
        with pytest.raises(ContrastiveError, match=message):
            read_links(tmp_path / name)


def test_small_relations_are_left_out(links):
    counts = links.triples[:, 1].bincount()
    kept = keep_relations(links, int(counts.max()))
    assert kept.num_relations == int((counts == counts.max()).sum())
    assert len(kept.triples) == int(counts.max()) * kept.num_relations
    with pytest.raises(ContrastiveError, match="lower min_links"):
        keep_relations(links, 10**6)


@pytest.mark.parametrize("kind", ["links", "pairs", "nodes"])
def test_no_part_knows_of_another(links, kind):
    split = split_links(links, kind, val_fraction=0.2, test_fraction=0.2, seed=1)
    parts = {name: as_set(links, t) for name, t in (("train", split.train), ("val", split.val.positive))}
    parts["test"] = as_set(links, split.test.positive)
    negatives = [as_set(links, part.negative) for part in (split.val, split.test)]
    assert len(split.train) + len(split.val.positive) + len(split.test.positive) == len(links.triples)
    assert parts["train"] | parts["val"] | parts["test"] == as_set(links, links.triples)
    assert not parts["train"] & parts["val"] and not parts["test"] & (parts["train"] | parts["val"])
    for held_out, drawn in zip((split.val, split.test), negatives):
        assert len(drawn) == len(held_out.negative)  # no two are equal
        assert not drawn & as_set(links, links.triples)
        assert held_out.negative[:, 1].tolist() == held_out.positive[:, 1].tolist()
        assert (held_out.negative[:, 0] != held_out.negative[:, 2]).all()
    assert not negatives[0] & negatives[1]


@pytest.mark.parametrize("kind", ["links", "pairs", "nodes"])
def test_held_out_links_and_held_out_negatives_are_hidden_alike(links, kind):
    split = split_links(links, kind, val_fraction=0.2, test_fraction=0.2, seed=1)
    for part in (*split.val, *split.test):
        assert split.is_hidden(part).all()
        undirected = links.undirected[part[:, 1]]
        assert split.is_hidden(part[undirected].flip(1)).all()
    assert not split.is_hidden(split.train).any()


def test_every_relation_has_its_share(links):
    split = split_links(links, "links", val_fraction=0.1, test_fraction=0.2)
    whole = links.triples[:, 1].bincount()
    for part, share in ((split.val, 0.1), (split.test, 0.2)):
        assert part.positive[:, 1].bincount().tolist() == (whole * share + 1e-9).floor().int().tolist()


def test_an_unseen_pair_is_unseen_in_every_relation(links):
    split = split_links(links, "pairs", val_fraction=0.2, test_fraction=0.2)

    def pairs(triples):
        return set(map(tuple, triples[:, [0, 2]].sort(dim=1)[0].tolist()))

    for part in (split.val, split.test):
        assert not pairs(split.train) & (pairs(part.positive) | pairs(part.negative))
    assert not pairs(split.val.positive) & pairs(split.test.positive)


def test_an_unseen_node_is_in_no_training_link(links):
    split = split_links(links, "nodes", val_fraction=0.2, test_fraction=0.2)
    seen = set(split.train[:, [0, 2]].flatten().tolist())
    for part in (*split.val, *split.test):
        unseen = [not {u, v} <= seen for u, _, v in part.tolist()]
        assert all(unseen)
    assert not seen & set(split.hidden_nodes.nonzero()[:, 0].tolist())


def test_a_relation_with_too_few_other_pairs_is_named(tmp_path):
    file = tmp_path / "links.csv"
    file.write_text("head,relation,tail\n" + "".join(f"{u},full,{v}\n" for u in range(9) for v in range(u)))
    links, _ = read_links(file, undirected=True)
    with pytest.raises(ContrastiveError, match="full has too few pairs"):
        split_links(links)


def passes_of(queries, batch_size=16):
    steps = len(queries) // batch_size
    passes = LinkPasses(queries, batch_size=batch_size, steps=steps, seed=0)
    return [passes.__getitems__([p]).input for p in range(2 * steps)]


@pytest.mark.parametrize("kind", ["links", "pairs", "nodes"])
def test_tail_queries_are_training_links_and_hide_the_rest(links, kind):
    split = split_links(links, kind, val_fraction=0.2, test_fraction=0.2)
    train = as_set(links, split.train)
    for queries in passes_of(TailQueries(split)):
        grid = torch.stack(
            [
                queries.head.unsqueeze(1).expand(queries.positive.shape),
                queries.relation.unsqueeze(1).expand(queries.positive.shape),
                queries.tail.expand(queries.positive.shape),
            ],
            dim=-1,
        )
        expected = [[triple in train for triple in map(tuple, row)] for row in links.canonical(grid).tolist()]
        assert queries.positive.tolist() == expected
        hidden = split.is_hidden(grid) | (grid[..., 0] == grid[..., 2])
        assert torch.equal(queries.negative, ~(queries.positive | hidden))


@pytest.mark.parametrize("kind", ["links", "pairs", "nodes"])
@pytest.mark.parametrize("sampling", ["uniform", "degree"])
@pytest.mark.parametrize("corruption", ["end", "both"])
def test_corruptions_are_no_links_and_nothing_hidden(links, kind, sampling, corruption):
    split = split_links(links, kind, val_fraction=0.2, test_fraction=0.2)
    queries = TripleQueries(
        split, num_negatives=3, sampling=sampling, corruption=corruption, filtered=True, evidence=None, seed=0
    )
    train = as_set(links, split.train)
    for batch in passes_of(queries):
        assert as_set(links, batch.triples[batch.positive]) <= train
        negatives = batch.triples[batch.negative]
        assert not as_set(links, negatives) & train
        assert not split.is_hidden(negatives).any()
        assert batch.negative[:, 1:].float().mean() > 0.7  # few pairs are neither linked nor hidden here
        if corruption == "end":
            kept = (batch.triples == batch.triples[:, :1]).sum(dim=2)
            assert (kept[batch.negative] == 2).all()


def test_corruptions_by_degree_follow_its_power(tmp_path):
    """A star: its centre has degree 20, the others 1."""
    file = tmp_path / "links.csv"
    file.write_text("head,tail\n" + "".join(f"u{i},hub\n" for i in range(20)) + "x,y\ny,z\nz,x\n")
    links, _ = read_links(file)
    split = split_links(links, val_fraction=0.05, test_fraction=0.05)
    queries = TripleQueries(
        split, num_negatives=1, sampling="degree", corruption="end", filtered=False, evidence=None, seed=0
    )
    relation = torch.zeros(20000, dtype=torch.int64)
    drawn = (
        queries.pools[1].draw(relation, torch.Generator().manual_seed(0)).bincount(minlength=links.num_nodes)
    )
    degree = split.train[:, 2].bincount(minlength=links.num_nodes).double() ** 0.75
    torch.testing.assert_close(drawn / 20000, (degree / degree.sum()).float(), atol=0.02, rtol=0)


def test_passes_follow_from_the_seed_and_the_number(links):
    split = split_links(links, val_fraction=0.2, test_fraction=0.2)
    settings = dict(
        num_negatives=2, sampling="uniform", corruption="end", filtered=True, evidence=None, seed=0
    )
    once, again = (passes_of(TripleQueries(split, **settings)) for _ in range(2))
    assert all(torch.equal(a.triples, b.triples) for a, b in zip(once, again))
    assert not torch.equal(once[0].triples, once[1].triples)


@pytest.mark.parametrize("undirected", [False, True])
@pytest.mark.parametrize("tail_types", [["disease"], ["gene", "disease"]], ids=len)
def test_candidates_have_the_types_that_a_relations_links_have(undirected, tail_types, tmp_path):
    """A relation between genes and diseases, and one between genes and both, besides one of diseases."""
    rng = np.random.default_rng(0)
    rows = {
        (f"g{u}", r, f"{kind[0]}{v}", "gene", kind)
        for r in ("marks", "near")
        for u, v in rng.integers(0, 30, (150, 2)).tolist()
        for kind in [tail_types[(u + v) % len(tail_types)]]
        if (kind == "disease") or u != v
    } | {(f"d{u}", "is", f"d{u + 1}", "disease", "disease") for u in range(29)}
    file = tmp_path / "links.csv"
    lines = [",".join(row) for row in sorted(rows)]
    file.write_text("\n".join(["head,relation,tail,head_type,tail_type", *lines]))
    links, _ = read_links(file, undirected=undirected)
    kinds = {"marks": {("gene", kind) for kind in tail_types}, "is": {("disease", "disease")}}
    kinds["near"] = kinds["marks"]

    def fit(triples):
        for u, r, v in triples.tolist():
            ends = tuple(links.node_types[links.node_type[end]] for end in (u, v))
            if not {ends, ends[::-1] if undirected else ends} & kinds[links.relations[r]]:
                return False
        return len(triples) > 0

    split = split_links(links, val_fraction=0.1, test_fraction=0.1)
    assert fit(split.test.negative) and fit(split.val.negative)
    queries = TailQueries(split)
    batch = queries.batch(torch.arange(len(queries)), torch.Generator())
    row, column = batch.negative.nonzero(as_tuple=True)
    assert fit(torch.stack([batch.head[row], batch.relation[row], batch.tail[column]], dim=1))
    row, column = batch.positive.nonzero(as_tuple=True)
    found = torch.stack([batch.head[row], batch.relation[row], batch.tail[column]], dim=1)
    assert torch.equal(links.keys(found).unique(), links.keys(split.train).unique())
    settings = dict(sampling="uniform", corruption="end", filtered=True, evidence=None, seed=0)
    batch = TripleQueries(split, num_negatives=4, **settings).batch(torch.arange(40), torch.Generator())
    assert fit(batch.triples[batch.negative])


def slow_ease(matrix, weight, ridge):
    gram = matrix.T @ (weight[:, None] * matrix)
    gram += ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
    inverse = np.linalg.inv(gram)
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def test_evidence_is_its_formula(links):
    split = split_links(links, val_fraction=0.2, test_fraction=0.2)
    evidence = Evidence(links, split.train, ridge=0.1)
    n, r = links.num_nodes, links.num_relations
    tensor = np.zeros((r, n, n))
    head, relation, tail = links.both_directions(split.train).T.numpy()
    tensor[relation, head, tail] = 1
    rows, columns = tensor.reshape(-1, n), tensor.transpose(0, 2, 1).reshape(-1, n)
    forward, backward = (m @ slow_ease(m, 1 / np.sqrt(np.maximum(m.sum(1), 1)), 0.1) for m in (rows, columns))
    pair_head, pair_relation, pair_tail = split.train.T.numpy()
    by_pair = np.zeros((n, n, r))
    by_pair[pair_head, pair_tail, pair_relation] = 1
    flat = by_pair.reshape(-1, r)
    flat_scores = (flat @ slow_ease(flat, np.ones(len(flat)), 0.1)).reshape(n, n, r)
    triples = torch.cat([split.train[:40], split.test.positive, split.test.negative])
    got = evidence(triples)
    train = as_set(links, split.train)
    for (u, k, v), row in zip(links.canonical(triples).tolist(), got.tolist()):
        own = float((u, k, v) in train)
        undirected = bool(links.undirected[k])
        ends = [
            [forward[k * n + u, v], backward[k * n + v, u]],
            [np.log1p(tensor[k, u].sum() - own), np.log1p(tensor[k, :, v].sum() - own)],
            [np.log1p(tensor[:, u].sum() - own), np.log1p(tensor[:, :, v].sum() - own)],
        ]
        ends = [sorted(pair) if undirected else pair for pair in ends]
        pair = [flat_scores[u, v, k], np.log1p(by_pair[u, v].sum() - own)]
        assert row == pytest.approx([*ends[0], *ends[1], *ends[2], *pair], abs=2e-3)


def test_evidence_does_not_know_the_link_it_is_asked_about(links):
    """Without a training link in the counts, the evidence of the others keeps its column weights only."""
    split = split_links(links, val_fraction=0.2, test_fraction=0.2)
    evidence = Evidence(links, split.train)
    asked = split.train[:1]
    weights = evidence.forward.weights
    assert (weights.diagonal() == 0).all()  # so x_j has no part in x·B_j
    u, r, v = asked[0].tolist()
    scores, _ = evidence.forward.relation(r)
    row = torch.zeros(len(evidence.used))
    mine = evidence.place[links.both_directions(split.train)[:, [0, 2]]]
    of_row = (links.both_directions(split.train)[:, 1] == r) & (mine[:, 0] == evidence.place[u])
    row[mine[of_row, 1]] = 1
    row[evidence.place[v]] = 0  # the link itself taken out
    torch.testing.assert_close(
        scores[evidence.place[u], evidence.place[v]], row @ weights[:, evidence.place[v]]
    )


def test_both_directions_of_an_undirected_link_have_the_same_evidence(links):
    split = split_links(links, val_fraction=0.2, test_fraction=0.2)
    if not links.undirected.all():
        pytest.skip("the links are directed")
    evidence = Evidence(links, split.train)
    assert torch.equal(evidence(split.test.positive), evidence(split.test.positive.flip(1)))


def test_the_typed_graph_has_every_training_link_in_both_directions(links):
    split = split_links(links, val_fraction=0.2, test_fraction=0.2)
    none = read_links_like(links)
    graph, num_types = typed_edges(split, none)
    assert num_types == links.num_relations * (1 if links.undirected.all() else 2)
    assert graph.num_edges == 2 * len(split.train) and graph.num_nodes == links.num_nodes


def read_links_like(links):
    return select_relations(links, torch.zeros(links.num_relations, dtype=torch.bool))


def test_features_are_found_by_name(tmp_path, links):
    file = tmp_path / "h.npz"
    np.savez(file, names=np.array([*links.nodes[:5], "stranger"]), h=np.random.default_rng(0).random((6, 3)))
    h = read_features(file, links)
    assert h.shape == (links.num_nodes, 3) and (h[5:] == 0).all()
    torch.testing.assert_close(h[:5].mean(dim=0), torch.zeros(3), atol=1e-6, rtol=0)
    np.savez(file, names=np.array(["stranger"]), h=np.zeros((1, 3)))
    with pytest.raises(ContrastiveError, match="none is a node"):
        read_features(file, links)


def test_membership_of_sorted_keys():
    ordered = torch.tensor([1, 4, 9])
    assert contains(ordered, torch.tensor([0, 1, 9, 10])).tolist() == [False, True, True, False]
    assert contains(ordered[:0], torch.tensor([0])).tolist() == [False]
