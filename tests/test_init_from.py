"""``--init_from``: pretraining that starts from another run's weights, of real runs by the command."""

import csv
import os
import shutil

import numpy as np
import pytest
import torch

from contrastive.features import load_encoder
from contrastive.methods.links import open_links

DIGITS = ["--config", "configs/image/simclr_digits.yaml", "--wandb", "off", "--trainer.max_steps", 1]
STILL = ["--model.optimizer.init_args.lr", 0]  # what training starts from is what it ends with


def weights(run):
    return load_encoder(run).encoder.state_dict()


def learnt(state):
    """Without batch norm's running means, which move though the learning rate is 0."""
    return {name: value for name, value in state.items() if "running" not in name and "tracked" not in name}


@pytest.mark.parametrize("what", ["run", "checkpoint", "export"])
def test_an_encoder_starts_from_another_runs_weights(what, command, digits_run, tmp_path):
    path = {
        "run": digits_run,
        "checkpoint": digits_run / "checkpoints" / "last.ckpt",
        "export": tmp_path / "e",
    }
    if what == "export":
        assert command("export", digits_run, "--output", path[what]).returncode == 0
    done = command("pretrain", *DIGITS, *STILL, "--run_dir", tmp_path / "run", "--init_from", path[what])
    assert done.returncode == 0, done.stderr
    for name, value in learnt(weights(digits_run)).items():
        torch.testing.assert_close(weights(tmp_path / "run")[name], value, rtol=0, atol=0)


def test_a_resumed_run_goes_on_from_its_own_weights(command, digits_run, tmp_path):
    start = shutil.copytree(digits_run, tmp_path / "start")
    options = [*DIGITS, "--run_dir", tmp_path / "run", "--init_from", start]
    assert command("pretrain", *options).returncode == 0
    first = weights(tmp_path / "run")
    shutil.rmtree(start)  # it is not read again
    done = command("pretrain", *options, "--ckpt_path", "last")
    assert done.returncode == 0, done.stderr
    for name, value in weights(tmp_path / "run").items():
        torch.testing.assert_close(value, first[name], rtol=0, atol=0)


def test_weights_that_do_not_fit_are_named(command, digits_run, tmp_path):
    wider = ["--model.encoder.init_args.width", 8, "--run_dir", tmp_path / "run"]
    done = command("pretrain", *DIGITS, *wider, "--init_from", digits_run)
    assert done.returncode == 1 and "of another shape" in done.stderr and str(digits_run) in done.stderr
    done = command("pretrain", *DIGITS, *wider, "--init_from", tmp_path / "none")
    assert done.returncode == 1 and f"there is no {tmp_path / 'none'}" in done.stderr


def links_file(file, names):
    with file.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["head", "relation", "tail"])
        draws = np.random.default_rng(0).random((len(names), len(names)))
        rows.writerows(
            [a, "near", b] for i, a in enumerate(names) for j, b in enumerate(names) if draws[i, j] < 0.3
        )
    return file


def links(file, folder, *more):
    options = ["--config", "configs/link/network.yaml", "--data.init_args.source", file, "--run_dir", folder]
    options += ["--data.init_args.val_fraction", 0.2, "--data.init_args.test_fraction", 0.2]
    options += ["--data.init_args.batch_size", 8, "--wandb", "off", "--trainer.max_steps", 2]
    return ["pretrain", *options, *more]


@pytest.fixture(scope="module")
def network(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    names = [f"n{i}" for i in range(20)]
    done = command(*links(links_file(folder / "a.csv", names), folder / "run"))
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.parametrize("encoder", ["NodeTable", "RelationalNodes"])
def test_nodes_start_from_the_vectors_of_their_names(command, network, tmp_path, encoder):
    names = [f"n{i}" for i in reversed(range(10, 30))]  # half of them are the network's, in another order
    file = links_file(tmp_path / "b.csv", names)
    rate = "--model.init_args.optimizer.init_args.lr"
    of = ["--model.init_args.encoder.class_path", f"encoders.links.{encoder}"]
    of += ["--model.init_args.encoder.init_args.num_features", 64]
    done = command(*links(file, tmp_path / "run", *of, rate, 0, "--init_from", network))
    assert done.returncode == 0 and "10 of 20 nodes start from" in done.stdout, done.stderr
    (theirs, their_data), (ours, our_data) = open_links(network), open_links(tmp_path / "run")
    table = getattr(ours.model.encoder, "nodes", ours.model.encoder).free
    for name in names[-10:]:
        own = table[our_data.split.links.nodes.index(name)]
        assert torch.equal(own, theirs.model.encoder.free[their_data.split.links.nodes.index(name)])


def test_vectors_that_were_trained_on_held_out_links_are_told_of(command, network, tmp_path):
    """Of the same links another seed holds out others: most of them the first run was trained on."""
    file = network.parent / "a.csv"
    done = command(*links(file, tmp_path / "same", "--init_from", network))
    assert done.returncode == 0 and "the training part" not in done.stderr, done.stderr
    done = command(*links(file, tmp_path / "other", "--seed_everything", 1, "--init_from", network))
    assert done.returncode == 0 and f"the training part of {network} has " in done.stderr, done.stderr


def test_nodes_that_do_not_fit_are_named(command, network, tmp_path):
    file = links_file(tmp_path / "b.csv", [f"m{i}" for i in range(20)])
    done = command(*links(file, tmp_path / "run", "--init_from", network))
    assert done.returncode == 1 and "has no node of" in done.stderr, done.stderr
    narrow = ["--model.init_args.encoder.init_args.num_features", 32]
    done = command(*links(file, tmp_path / "run", *narrow, "--init_from", network))
    assert done.returncode == 1 and "64 features a node and NodeTable has free vectors of 32" in done.stderr
    done = command(*links(file, tmp_path / "run", "--init_from", os.devnull))
    assert done.returncode == 1 and "is not a run folder" in done.stderr
