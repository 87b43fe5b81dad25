"""Decoders against slow loops, losses against sums over single links."""

import math

import pytest
import torch

from contrastive.link_losses import LinkBCE, LinkInfoNCE, LinkMargin
from encoders.decoders import DEDICOM, Bilinear, ComplEx, DistMult, Dot, MLPDecoder, SimplE

D, R = 6, 4
BOTH = [Bilinear, DEDICOM, SimplE, ComplEx, MLPDecoder]
DECODERS = [(kind, {}) for kind in (Dot, DistMult, *BOTH)] + [(kind, {"symmetric": True}) for kind in BOTH]


def slow(decoder, h, r, t):
    """The papers' formulas for one triple of float64 vectors."""
    weight = getattr(decoder, "weight", None)
    symmetric = getattr(decoder, "symmetric", False)
    half = D // 2
    if isinstance(decoder, Dot):
        return sum(h[k] * t[k] for k in range(D))
    if isinstance(decoder, DistMult):
        return sum(h[k] * weight[r, k] * t[k] for k in range(D))
    if isinstance(decoder, Bilinear):
        m = (weight[r] + weight[r].T) / 2 if symmetric else weight[r]
        return sum(h[k] * m[k, m_] * t[m_] for k in range(D) for m_ in range(D))
    if isinstance(decoder, DEDICOM):
        m, d = (weight + weight.T) / 2 if symmetric else weight, decoder.diagonal[r]
        return sum(h[k] * d[k] * m[k, j] * d[j] * t[j] for k in range(D) for j in range(D))
    if isinstance(decoder, SimplE):
        inverse = weight[r, :half] if symmetric else weight[r, half:]
        pairs = ((h[k] * weight[r, k] * t[half + k] + t[k] * inverse[k] * h[half + k]) for k in range(half))
        return sum(pairs) / 2
    if isinstance(decoder, ComplEx):
        total = 0
        for k in range(half):
            a, b = complex(h[k], h[half + k]), complex(t[k], t[half + k])
            w = complex(weight[r, k], 0 if symmetric else weight[r, half + k])
            total += (a * w * b.conjugate()).real
        return total
    pair = torch.cat([h * t, (h - t).abs()] if symmetric else [h, t])
    return decoder.out((decoder.pair(pair) + decoder.relation[r]).relu())[0]


def names(case):
    return case[0].__name__ + ("-symmetric" if case[1] else "")


@pytest.mark.parametrize("case", DECODERS, ids=names)
def test_a_decoder_is_its_formula(case):
    torch.manual_seed(0)
    decoder = case[0](D, R, **case[1]).double()
    head, tail = torch.randn(9, D).double(), torch.randn(7, D).double()
    relation = torch.randint(R, (9,))
    with torch.no_grad():
        every = decoder.tails(head, relation, tail)
        expected = [[float(slow(decoder, h, r, t)) for t in tail] for h, r in zip(head, relation.tolist())]
        torch.testing.assert_close(every, torch.tensor(expected).double())
        single = decoder(head[:7], relation[:7], tail)
        torch.testing.assert_close(single, every[:7].diagonal())


@pytest.mark.parametrize(
    "case", [(Dot, {}), (DistMult, {}), *((k, {"symmetric": True}) for k in BOTH)], ids=names
)
def test_a_symmetric_decoder_knows_no_direction(case):
    torch.manual_seed(0)
    decoder = case[0](D, R, **case[1])
    head, tail, relation = torch.randn(9, D), torch.randn(9, D), torch.randint(R, (9,))
    torch.testing.assert_close(decoder(head, relation, tail), decoder(tail, relation, head))


def test_odd_widths_are_refused():
    with pytest.raises(ValueError, match="even"):
        SimplE(5, R)


@pytest.fixture
def queries():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    kind = torch.randint(3, (6, 9), generator=generator)
    kind[0] = torch.where(kind[0] == 1, 2, kind[0])  # a query without negatives
    kind[1] = torch.where(kind[1] == 0, 1, kind[1])  # and one without links
    return scores, kind == 0, kind == 1


def hard_weights(negatives, beta):
    total = sum(math.exp(beta * s) for s in negatives)
    return [len(negatives) * math.exp(beta * s) / total for s in negatives]


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_losses_are_sums_over_links(queries, beta):
    scores, positive, negative = queries
    bce, nce, hinge, links, pairs = 0.0, 0.0, 0.0, 0, 0
    counted = 0
    for row, plus, minus in zip(scores, positive, negative):
        links_, others = row[plus].tolist(), row[minus].tolist()
        weights = hard_weights(others, beta)
        bce += sum(math.log1p(math.exp(-s)) for s in links_)
        bce += sum(w * math.log1p(math.exp(s)) for w, s in zip(weights, others))
        counted += len(links_) + len(others)
        halved = hard_weights([2 * s for s in others], beta)
        for s in links_:
            if others:
                total = sum(w * math.exp(2 * o) for w, o in zip(halved, others))
                nce += -2 * s + math.log(math.exp(2 * s) + total)
                links += 1
            hinge += sum(w * max(0, 1 - s + o) for w, o in zip(weights, others))
            pairs += len(others)
    for loss, expected in (
        (LinkBCE(beta), bce / counted),
        (LinkInfoNCE(0.5, beta), nce / links),
        (LinkMargin(1.0, beta), hinge / pairs),
    ):
        assert loss(scores, positive, negative).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [LinkBCE(0.5), LinkInfoNCE(beta=0.5), LinkMargin(beta=0.5)])
def test_what_does_not_count_has_no_gradient(queries, loss):
    scores, positive, negative = queries
    scores = scores.requires_grad_()
    loss(scores, positive, negative).backward()
    assert scores.grad.isfinite().all()
    assert (scores.grad[~(positive | negative)] == 0).all()
