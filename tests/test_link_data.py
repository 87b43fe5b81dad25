"""Links split without a leak, and what is made of the training part: evidence and the typed graph."""

import numpy as np
import pytest
import torch
from link_cases import as_set

from contrastive.data.link_evidence import Evidence
from contrastive.data.link_features import read_features
from contrastive.data.link_files import read_links
from contrastive.data.link_splits import _by_link, split_links
from contrastive.data.link_table import contains, keep_relations, select_relations
from contrastive.data.links import LinkData, typed_edges
from contrastive.errors import ContrastiveError


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


@pytest.mark.parametrize("fractions", [(-0.1, 0.1), (0.6, 0.6), (0.5, 0.5), (float("nan"), 0.1), (10, 10)])
def test_fractions_that_leave_no_rest_are_refused(links, fractions):
    with pytest.raises(ContrastiveError, match="than 1 together"):
        split_links(links, val_fraction=fractions[0], test_fraction=fractions[1])


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
    np.savez(file, names=np.array(links.nodes[:1]), h=np.ones((1, 3)))
    assert (read_features(file, links) == 0).all()  # and not NaN
    np.savez(file, names=np.array(["stranger"]), h=np.zeros((1, 3)))
    with pytest.raises(ContrastiveError, match="none is a node"):
        read_features(file, links)


def test_a_constant_feature_is_none(tmp_path, links):
    np.savez(tmp_path / "h.npz", names=np.array(links.nodes), h=np.full((links.num_nodes, 1), 1000.3))
    assert read_features(tmp_path / "h.npz", links).abs().max() < 1e-3


def test_features_of_users_are_not_those_of_items(tmp_path):
    """User 1 is not item 1, and gets no features of it."""
    (tmp_path / "links.csv").write_text("head,tail\n1,2\n2,1\n3,1\n")
    links, _ = read_links(tmp_path / "links.csv", types=["user", "item"])
    file, arrays = tmp_path / "h.npz", dict(names=np.array([1, 2]), h=np.array([[1.0], [3.0]]))
    np.savez(file, **arrays)
    with pytest.raises(ContrastiveError, match="1 is the name of nodes of several types; add types"):
        read_features(file, links)
    np.savez(file, **arrays, types=np.array(["item", "item"]))
    h = read_features(file, links)
    items = links.node_type == links.node_types.index("item")
    assert (h[~items] == 0).all() and (h[items] != 0).all()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"names": ["n1", "n1"]}, "n1 is named twice"),
        ({"h": [[0.0], [np.nan]]}, "n2 has features that are not finite"),
        ({"h": [0.0, 1.0]}, "2 names for h of the shape"),
        ({"h": [["a"], ["b"]]}, "is no .npz with names"),
        ({"types": ["node"]}, "2 names for h of the shape"),
    ],
)
def test_features_that_are_wrong_are_named(tmp_path, links, arrays, message):
    np.savez(tmp_path / "h.npz", **({"names": ["n1", "n2"], "h": [[0.0], [1.0]]} | arrays))
    with pytest.raises(ContrastiveError, match=message):
        read_features(tmp_path / "h.npz", links)


def test_membership_of_sorted_keys():
    ordered = torch.tensor([1, 4, 9])
    assert contains(ordered, torch.tensor([0, 1, 9, 10])).tolist() == [False, True, True, False]
    assert contains(ordered[:0], torch.tensor([0])).tolist() == [False]


def test_links_that_are_there_in_both_directions_are_told_of(tmp_path, caplog):
    """Unless they are undirected, a random split leaves the reverse of test links in training."""
    pairs = [(f"n{u}", f"n{v}") for u in range(12) for v in range(u) if (u + v) % 3 == 0]
    rows = [f"{u},friend,{v}\n{v},friend,{u}\n{u},cites,{v}\n{u},likes,{u}" for u, v in pairs]
    (tmp_path / "links.csv").write_text("\n".join(["head,relation,tail", *rows]))
    source = str(tmp_path / "links.csv")
    links, _ = read_links(source)
    assert links.reversed_share.tolist()[:2] == [1, 0] and links.reversed_share.isnan().tolist() == [
        False,
        False,
        True,
    ]
    LinkData(source, split="pairs").setup()
    assert "in both directions" not in caplog.text
    LinkData(source).setup()
    assert f"{source} has every link of friend in both directions, so that" in caplog.text
    (tmp_path / "friends.csv").write_text("head,tail\n" + "\n".join(f"{u},{v}\n{v},{u}" for u, v in pairs))
    caplog.clear()
    LinkData(str(tmp_path / "friends.csv"), undirected=True).setup()
    assert "in both directions" not in caplog.text


def test_a_fingerprint_tells_nodes_links_and_parts(tmp_path):
    rows = [f"n{u},r,n{v}" for u in range(20) for v in range(u) if (u + v) % 3]
    others = {
        "again": rows,
        "another order": rows[::-1],
        "one more": [*rows, "n0,r,n3"],
        "renamed": [row.replace("n5", "n50") for row in rows],
        "another seed": rows,
        "another context": rows,
    }
    (tmp_path / "context.csv").write_text("head,tail\nn0,n1\n")
    found = {}
    for name, lines in others.items():
        file = tmp_path / f"{name}.csv"
        file.write_text("\n".join(["head,relation,tail", *lines]))
        context = [str(tmp_path / "context.csv")] if name == "another context" else None
        data = LinkData(str(file), context=context, seed=int(name == "another seed"))
        data.setup()
        found[name] = data.fingerprint.tolist()
    first = LinkData(str(tmp_path / "again.csv"))
    first.setup()
    assert found["again"] == first.fingerprint.tolist()
    assert len(set(map(tuple, found.values()))) == len(others)


def test_a_split_of_equal_draws_is_that_of_a_stable_sort(links, monkeypatch):
    """Which of equal draws comes first must not be the machine's choice: test links would be trained on."""
    draws = torch.rand(len(links.triples)).mul(4).floor()
    monkeypatch.setattr("contrastive.data.link_splits.torch.rand", lambda *_, **__: draws.clone())
    part = _by_link(links, torch.tensor([0.2, 0.2]), torch.Generator())[0]
    for r in range(links.num_relations):
        own = (links.triples[:, 1] == r).nonzero()[:, 0].numpy()
        order = own[np.argsort(draws[own].numpy(), kind="stable")]
        size = int(len(own) * 0.2 + 1e-9)
        assert (part[order[:size]] == 1).all() and (part[order[size : 2 * size]] == 2).all()


@pytest.mark.parametrize("undirected", [False, True])
def test_a_context_of_held_out_links_is_told_of(tmp_path, caplog, undirected):
    """Message passing would see what is predicted."""
    pairs = [(u, v) for u in range(20) for v in range(u) if (u + v) % 3]
    texts = {
        "links": ["head,relation,tail", *(f"n{u},cites,n{v}" for u, v in pairs)],
        "other": ["head,relation,tail", *(f"n{u},likes,n{v}" for u, v in pairs)],
        "same": ["head,relation,tail", *(f"n{u},cites,n{v}" for u, v in pairs)],
        "reversed": ["head,relation,tail", *(f"n{v},cites,n{u}" for u, v in pairs)],
    }
    for name, rows in texts.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(rows))
    for context in ("other", "same", "reversed"):
        caplog.clear()
        data = LinkData(
            str(tmp_path / "links.csv"), context=[str(tmp_path / f"{context}.csv")], undirected=undirected
        )
        data.setup()
        told = [message for message in caplog.messages if "held-out" in message]
        number = len(data.split.val.positive) + len(data.split.test.positive)
        assert len(told) == (context == "same" or (undirected and context == "reversed"))
        assert all(f"the context has {number} of the {number} held-out links" in message for message in told)


def test_held_out_loops_are_told_of(tmp_path, caplog):
    rows = [f"n{u},cites,n{v}" for u in range(12) for v in range(u) if (u + v) % 3]
    for loops, told in (([], False), ([f"n{u},cites,n{u}" for u in range(12)], True)):
        (tmp_path / "links.csv").write_text("\n".join(["head,relation,tail", *rows, *loops]))
        data = LinkData(str(tmp_path / "links.csv"), val_fraction=0.3, test_fraction=0.3)
        data.setup()
        assert ("of a node to itself" in caplog.text) == told
