import pickle
import subprocess
from importlib.resources import files

import pytest
import torch
from torch import nn

import contrastive
from contrastive.data.images import read_images
from contrastive.errors import ContrastiveError
from contrastive.features import evaluating, load_encoder
from contrastive.items import encode_items
from encoders.image import SmallCNN


@pytest.fixture(scope="module")
def images():
    return read_images("digits", "test").images[:7]


def test_run_checkpoint_and_export_are_the_same_encoder(command, digits_run, images, tmp_path):
    done = command("export", digits_run, "--output", tmp_path / "export")
    assert done.returncode == 0, done.stderr
    paths = (digits_run, digits_run / "checkpoints" / "last.ckpt", tmp_path / "export")
    encoders = [load(path) for path in paths]
    features = [encoder(images) for encoder in encoders]
    assert torch.equal(features[0], features[1]) and torch.equal(features[0], features[2])
    assert features[0].shape == (7, encoders[0].num_features)
    assert not any(p.requires_grad for p in encoders[0].parameters()) and not encoders[0].encoder.training
    again = command("export", digits_run, "--output", tmp_path / "export")
    assert again.returncode == 1 and "exists already" in again.stderr


def load(path):
    return contrastive.load_encoder(path)


def test_weights_are_the_trained_ones(digits_run):
    state = torch.load(digits_run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for key, value in load(digits_run).encoder.state_dict().items():
        assert torch.equal(value, state[f"encoder.{key}"]), key


def test_features_do_not_depend_on_the_batch(digits_run):
    data, encoder = read_images("digits", "test"), load(digits_run)
    whole = torch.from_numpy(encode_items(encoder, data, batch_size=540))
    torch.testing.assert_close(whole, torch.from_numpy(encode_items(encoder, data, batch_size=77)))
    torch.testing.assert_close(whole, encoder(data.images))


@pytest.mark.parametrize("width", [8, 16])
def test_a_checkpoint_that_does_not_fit_names_the_keys(digits_run, width, tmp_path):
    path = tmp_path / "edited.ckpt"
    checkpoint = torch.load(digits_run / "checkpoints" / "last.ckpt", weights_only=True)
    del checkpoint["state_dict"]["encoder.layers.0.weight"]
    checkpoint["state_dict"]["encoder.extra"] = torch.zeros(1)
    torch.save(checkpoint, path)
    with pytest.raises(ContrastiveError) as error:
        contrastive.load_encoder(path, encoder=SmallCNN(width=width))
    assert "1 missing: layers.0.weight" in str(error.value) and "1 unexpected: extra" in str(error.value)
    assert ("of another shape" in str(error.value)) == (width == 8)


class Code:
    """What a malicious checkpoint holds."""

    def __reduce__(self):
        return subprocess.check_call, (["touch", "/tmp/should-not-exist-after-loading"],)


def test_a_pickle_with_code_in_it_is_refused(tmp_path):
    torch.save({"state_dict": {}, "config": Code()}, tmp_path / "evil.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Code()))
    for name in ("evil.ckpt", "plain.ckpt"):
        with pytest.raises(ContrastiveError, match="was not opened|is not a checkpoint"):
            load(tmp_path / name)
    import pathlib

    assert not pathlib.Path("/tmp/should-not-exist-after-loading").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04."])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(ContrastiveError, match=r"x\.ckpt"):
        load(tmp_path / "x.ckpt")


def test_a_path_that_leads_nowhere_is_named(tmp_path):
    with pytest.raises(ContrastiveError, match="there is no .*nothing"):
        load(tmp_path / "nothing")
    with pytest.raises(ContrastiveError, match="no run folder"):
        load(tmp_path)


def test_evaluating_gives_every_part_its_mode_back():
    """Also a part that was frozen in eval mode amid training, and after an error."""
    network = SmallCNN(in_channels=3).train()
    norm = network.layers[1].eval()
    with pytest.raises(KeyError), evaluating(network):
        assert not any(part.training for part in network.modules())
        raise KeyError
    assert [part for part in network.modules() if not part.training] == [norm]


def test_a_frozen_part_of_a_network_that_is_trained_stays_as_it_is(digits_run, images):
    encoder = load_encoder(digits_run)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    h = encoder(images)
    model = nn.Sequential(encoder, nn.Linear(encoder.num_features, 2)).train()
    model(images).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert torch.equal(encoder(images), h) and model[1].training and model[1].weight.grad is not None
    encoder.requires_grad_(True)
    model.train()
    assert all(part.training for part in encoder.modules())
    assert not any(part.training for part in model.eval().modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_an_encoder_in_another_precision_has_the_same_features(dtype, digits_run, images):
    features = load(digits_run).to(dtype)(images)
    assert features.dtype == dtype
    torch.testing.assert_close(features.float(), load(digits_run)(images), atol=0.1, rtol=0.05)


def test_opening_an_encoder_draws_nothing_from_the_callers_generator(digits_run):
    state = torch.get_rng_state()
    load(digits_run)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("package", ["contrastive", "encoders", "augmentations"])
def test_type_checkers_read_the_hints(package):
    assert (files(package) / "py.typed").is_file(), "else a user's program is checked as if all were Any"
