"""The queries that training sees: links, what is no link, and nothing that is held out."""

import numpy as np
import pytest
import torch
from link_cases import as_set

from contrastive.data.link_files import read_links
from contrastive.data.link_queries import LinkPasses, TailQueries, TripleQueries
from contrastive.data.link_splits import split_links


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
