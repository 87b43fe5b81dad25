"""Features are kept by weights, preprocessing and items, and never taken for others."""

import numpy as np
import pytest
import torch
from torch import nn

from augmentations.colour import Normalize
from contrastive.errors import ContrastiveError
from contrastive.evaluation.protocol import Protocol
from contrastive.evaluation.tasks import read_task
from contrastive.feature_cache import cached_features, fingerprint_of
from contrastive.features import FrozenEncoder, load_encoder
from encoders.graph import GraphEncoder

pytestmark = pytest.mark.usefixtures("own_cache")


def test_features_are_computed_once_and_anew_for_other_weights(digits_run, monkeypatch):
    encoder = load_encoder(digits_run)
    task = read_task(encoder, Protocol("digits"))
    h = cached_features(encoder, task.dataset, batch_size=512, progress=None)
    with monkeypatch.context() as patched:
        patched.setattr(
            "contrastive.feature_cache.encode_items", lambda *_, **__: pytest.fail("encoded again")
        )
        np.testing.assert_array_equal(
            cached_features(encoder, task.dataset, batch_size=512, progress=None), h
        )
    with torch.no_grad():
        next(encoder.encoder.parameters()).add_(0.1)
    assert not np.array_equal(cached_features(encoder, task.dataset, batch_size=512, progress=None), h)


def test_networks_of_the_same_weights_that_print_alike_have_features_of_their_own():
    def key(preprocess=None, **settings):
        torch.manual_seed(0)
        return fingerprint_of(
            FrozenEncoder(GraphEncoder(node_features=3, **settings), preprocess or nn.Identity())
        )

    different = [
        {}, {"readout": "mean"}, {"residual": True}, {"jumping_knowledge": "sum"},
        {"layer": "sage"}, {"layer": "sage", "layer_args": {"aggregate": "max"}},
        {"preprocess": Normalize()}, {"preprocess": Normalize(mean=(0.5, 0.5, 0.5))},
    ]  # fmt: skip
    assert len({key(**settings) for settings in different}) == len(different)
    assert key() == key()


def test_a_damaged_cache_is_computed_anew(digits_run, tmp_path):
    encoder = load_encoder(digits_run)
    task = read_task(encoder, Protocol("digits"))
    h = cached_features(encoder, task.dataset, batch_size=512, progress=None)
    (file,) = (tmp_path / "cache").rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    np.testing.assert_array_equal(cached_features(encoder, task.dataset, batch_size=512, progress=None), h)


def test_features_that_are_not_finite_are_not_judged(digits_run):
    encoder = load_encoder(digits_run)
    task = read_task(encoder, Protocol("digits"))
    with torch.no_grad():
        next(encoder.encoder.parameters()).fill_(float("nan"))
    for enabled in (True, False):
        with pytest.raises(ContrastiveError, match="features of 1797 of 1797 items are not finite"):
            cached_features(encoder, task.dataset, enabled=enabled)
