"""Embeddings of features and categories of nodes and edges."""

import pytest
import torch
from graph_cases import close
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from encoders.feature_encoder import FeatureEncoder


def test_feature_encoder_is_a_sum_of_embeddings():
    encoder = FeatureEncoder([4, 3], 5)
    x = torch.tensor([[0, 2], [3, 0]])
    close(encoder(x), encoder.embedding.weight[[0, 3]] + encoder.embedding.weight[[4 + 2, 4 + 0]])
    with pytest.raises(
        ValueError, match=r"shape \(2, 2\) and dtype torch.float32, expected 2 columns of int64"
    ):
        encoder(x.float())
    with pytest.raises(
        ValueError, match="column 0 has the category 4, expected one of 4, numbered from 0; set node_features"
    ):
        encoder(torch.tensor([[4, 0]]))  # which is where column 1 starts
    with pytest.raises(ValueError, match="column 1 has the category -1, expected one of 3, numbered from 0"):
        encoder(torch.tensor([[0, -1]]))  # which is where column 0 ends


@pytest.mark.parametrize("categories", [[4, 3], [5]], ids=str)
def test_more_rows_than_combinations_of_categories_are_embedded_the_same(categories):
    encoder = FeatureEncoder(categories, 5).double()
    x = torch.stack([torch.randint(number, (40,)) for number in categories], dim=1)
    seed = torch.randn(40, 5, dtype=torch.float64)
    one_hot = torch.cat([torch.eye(n, dtype=torch.float64)[c] for n, c in zip(categories, x.unbind(1))], 1)
    out = encoder(x)
    out.backward(seed)
    close(out, one_hot @ encoder.embedding.weight)
    close(encoder.embedding.weight.grad, one_hot.T @ seed)


def test_an_average_of_feature_encoders_finds_every_category():
    encoder = FeatureEncoder([7, 11, 5], 5)
    average = AveragedModel(encoder, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(20):
        average.update_parameters(encoder)
    x = torch.tensor([[0, 0, 0], [6, 10, 4]])
    close(average(x), encoder(x))
    assert encoder.to("meta").first.is_meta  # moved with the weights all the same


def test_feature_encoders_without_values_are_filled_from_a_checkpoint():
    encoder, x = FeatureEncoder([7, 11, 5], 5), torch.tensor([[6, 10, 4]])
    with torch.device("meta"):
        empty = FeatureEncoder([7, 11, 5], 5)
    empty.to_empty(device="cpu").load_state_dict(encoder.state_dict())
    assert torch.equal(empty(x), encoder(x))
    close(encoder.type(torch.float64)(x).float(), empty(x))
