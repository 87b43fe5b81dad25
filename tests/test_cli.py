"""The commands as a user types them: what they write, and what they say when the input is bad."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from contrastive import cli

DIGITS = "configs/image/simclr_digits.yaml"


@pytest.fixture
def pretrain(command, tmp_path):
    def run(*args, run_dir=tmp_path / "run", wandb="off"):
        return command("pretrain", "--config", DIGITS, "--run_dir", run_dir, "--wandb", wandb, *args)

    return run


def test_a_run_folder_holds_what_it_should(digits_run):
    assert (digits_run / "checkpoints" / "last.ckpt").is_file()
    config = yaml.safe_load((digits_run / "config.yaml").read_text())
    assert config["model"]["init_args"]["encoder"]["class_path"] == "encoders.image.SmallCNN"
    rows = list(csv.DictReader((digits_run / "metrics.csv").open()))
    assert {"loss", "knn_accuracy", "step", "lr-AdamW/pg1"} <= rows[0].keys()
    assert [row["step"] for row in rows if row["knn_accuracy"]] == ["0", "15"]  # untrained, and at the end
    assert list(digits_run.glob("wandb/offline-run-*"))  # no key was set: offline, and no prompt
    assert (digits_run / "wandb_id").read_text().strip()


def test_the_saved_configuration_repeats_the_run(command, digits_run, tmp_path):
    done = command(
        "pretrain", "--config", digits_run / "config.yaml", "--run_dir", tmp_path / "again", "--wandb", "off"
    )
    assert done.returncode == 0, done.stderr
    one, two = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (digits_run, tmp_path / "again")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_resuming_gives_the_uninterrupted_run(command, pretrain, digits_run, tmp_path):
    """A run of two epochs, cut after the first by losing its later files, then resumed."""
    keep_all = (
        "--trainer.callbacks+=ModelCheckpoint",
        "--trainer.callbacks.save_top_k=-1",
        "--trainer.callbacks.every_n_train_steps=8",
    )
    folder = tmp_path / "run"
    assert (
        pretrain(
            "--trainer.max_epochs", 2, *keep_all, f"--trainer.callbacks.dirpath={tmp_path}/all"
        ).returncode
        == 0
    )
    straight = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    (first,) = (tmp_path / "all").glob("epoch=0-*.ckpt")
    shutil.copy(first, folder / "checkpoints" / "last.ckpt")
    done = pretrain("--trainer.max_epochs", 2, "--ckpt_path", "last")
    assert done.returncode == 0, done.stderr
    resumed = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert resumed["global_step"] == straight["global_step"] == 16
    for key, value in straight["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][key]), key
    steps = [int(row["step"]) for row in csv.DictReader((folder / "metrics.csv").open()) if row["loss"]]
    assert steps == sorted(set(steps))  # the log goes on; nothing is lost and nothing is there twice


def test_a_second_run_does_not_overwrite_the_first(digits_run, pretrain):
    done = pretrain(run_dir=digits_run)
    assert done.returncode == 1 and "already holds a run; resume with --ckpt_path last" in done.stderr


def test_accumulated_negatives_train(pretrain, tmp_path):
    done = pretrain(
        "--trainer.max_epochs", 1, "--model.accumulate_negatives", 4, "--trainer.log_every_n_steps", 1
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert all(row["loss"] == "" or 0 < float(row["loss"]) < 10 for row in rows)


@pytest.mark.parametrize(
    "args,message",
    [
        (("--model.temprature", 3), "ContrastiveModule has no option temprature; it has encoder, views, "),
        (("--model.warmup_epochs", "abc"), "model.warmup_epochs: expected a number, but was given abc\n"),
        (
            ("--data.init_args.bach_size", 3),
            "ImageData has no option bach_size; the nearest: batch_size, image_size (",
        ),
        (("--config", "nothing.yaml"), "no configuration nothing.yaml"),
        (("--data.init_args.source", "/nowhere"), "'/nowhere' is neither a folder"),
        (("--data.init_args.batch_size", 5000), "fewer than one batch of 5000"),
        (
            ("--model.encoder", "encoders.image.ResNet", "--model.encoder.init_args.depth", 19),
            "choose one of 18",
        ),
        (("--ckpt_path", "/nowhere.ckpt"), "no checkpoint /nowhere.ckpt"),
        (("--ckpt_path", "last"), "to resume from"),
        (("--data.num_workers", -1), "be built: num_workers is -1; give 0 to read in the training process"),
        (("--model.loss.temperature", 0), "temperature must be positive, but is 0"),
        (("--model.loss.temperature", "null"), "loss.temperature: expected a number, but was given null"),
        (("--data.batch_size", "null"), "data.batch_size: expected a whole number, but was given null"),
        (("--model.views.noise", "null"), "model.views[0].noise: expected a number, but was given null"),
        (
            ("--data.train_subset", 5000),
            "cannot draw 5000 of 1257 items: give train_subset fewer, or a share",
        ),
        (("--model.optimizer.lr", -1), "model.optimizer cannot be built: Invalid learning rate: -1.0"),
        (("--trainer.devices", 0), "cannot be built: `Trainer(devices='0')` value is not a valid input"),
        (("--trainer.max_steps", 0), "nothing would be trained"),
        (("--trainer.accumulate_grad_batches", 0), "trainer.accumulate_grad_batches is 0 and"),
        (("--trainer.gradient_clip_val", -1), "trainer.gradient_clip_val -1; give 1 or more, and 0 or more"),
        (("--model.accumulate_negatives", 2, "--trainer.gradient_clip_val", 1), "takes its steps by itself"),
        (
            (
                "--trainer.callbacks+=EarlyStopping",
                "--trainer.callbacks.monitor=x",
                "--trainer.max_epochs",
                1,
            ),
            "Early stopping conditioned on metric `x` which is not available",
        ),
    ],
)
def test_bad_settings_get_one_message(pretrain, args, message):
    done = pretrain(*args)
    assert done.returncode in (1, 2)
    assert message in done.stderr and "Traceback" not in done.stderr and done.stderr.count("error:") == 1


def test_weights_are_averaged_by_lightning_s_callback(pretrain, tmp_path):
    average = ("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.5")
    done = pretrain("--trainer.max_epochs", 1, "--trainer.profiler", "simple", *average)
    assert done.returncode == 0, done.stderr
    assert "Profiler Report" in done.stderr  # what is asked for is not kept quiet
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    averaged, current = saved["state_dict"], saved["current_model_state"]
    assert averaged.keys() == current.keys()
    assert not any(torch.equal(averaged[key], current[key]) for key in averaged if key.endswith("weight"))


def test_what_watches_a_run_can_be_turned_off(pretrain, tmp_path):
    off = ("--knn.every_n_epochs", 0, "--collapse.every_n_steps", 0, "--trainer.log_every_n_steps", 1)
    done = pretrain("--trainer.max_epochs", 1, *off)
    assert done.returncode == 0, done.stderr
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "loss" in header and not {"knn_accuracy", "z_std"} & {*header}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_meters_of_a_step_are_logged_once(pretrain, tmp_path, accumulate):
    settings = ("--trainer.log_every_n_steps", 1, "--trainer.accumulate_grad_batches", accumulate)
    settings += ("--trainer.max_steps", 4, "--collapse.every_n_steps", 2, "--checkpoints.every_n_steps", 2)
    for resume in ((), ("--ckpt_path", tmp_path / "run" / "checkpoints" / "step-2.ckpt")):
        done = pretrain(*settings, *resume)
        assert done.returncode == 0, done.stderr
        rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
        for name in ("z_std", "h_rank", "h_rankme", "z_uniformity", "z_alignment"):
            assert [row["step"] for row in rows if row[name]] == ["1", "3"]


def test_a_schedule_of_torch_s_takes_the_place_of_warm_up_and_cosine(pretrain, tmp_path):
    schedule = ("--model.schedule=MultiStepLR", "--model.schedule.milestones=[3, 5]")
    done = pretrain("--trainer.max_epochs", 1, "--trainer.log_every_n_steps", 1, *schedule)
    assert done.returncode == 0, done.stderr
    rows = csv.DictReader((tmp_path / "run" / "metrics.csv").open())
    rates = [float(row["lr-AdamW/pg1"]) for row in rows if row["lr-AdamW/pg1"]]
    assert rates == pytest.approx([rates[0] * factor for factor in (1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01)])


def test_a_step_of_several_batches_is_logged_once(pretrain, tmp_path):
    settings = ("--trainer.accumulate_grad_batches", 2, "--trainer.log_every_n_steps", 1)
    done = pretrain("--trainer.max_epochs", 1, "--collapse.every_n_steps", 0, *settings)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    for name in ("loss", "lr-AdamW/pg1"):
        assert [row["step"] for row in rows if row[name]] == ["0", "1", "2", "3"]


def test_a_folder_that_cannot_be_written_is_named(pretrain, tmp_path):
    (tmp_path / "file").write_text("")
    done = pretrain(run_dir=tmp_path / "file" / "run")
    assert done.returncode == 1 and f"cannot write to {tmp_path}/file/run" in done.stderr


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_samples(pretrain):
    done = pretrain("--model.optimizer.init_args.lr", 1e30, "--model.warmup_epochs", 0)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "the loss is nan at step" in done.stderr and "samples" in done.stderr


def test_a_corrupt_image_is_named(pretrain, tmp_path):
    for i in range(8):
        Image.new("L", (8, 8), i).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"nonsense")
    grey = ("--data.init_args.source", tmp_path, "--data.init_args.channels", 1)
    done = pretrain(*grey, run_dir=tmp_path / "run")
    assert done.returncode == 1 and f"{tmp_path}/3.png is not a readable image" in done.stderr


def test_one_class_only_cannot_be_probed(command, digits_run, tmp_path):
    for i in range(10):
        (tmp_path / "only").mkdir(exist_ok=True)
        Image.new("L", (8, 8), i).save(tmp_path / "only" / f"{i}.png")
    done = command("probe", digits_run, "--data", tmp_path)
    assert done.returncode == 1 and "one class only (only)" in done.stderr
    done = command("probe", digits_run, "--data", tmp_path / "only")
    assert done.returncode == 1 and "has no labels" in done.stderr


@pytest.mark.parametrize("args,status", [((), 2), (("--help",), 0), (("pretain",), 2)])
def test_usage(command, args, status):
    done = command(*args)
    assert done.returncode == status and "quickstart" in done.stdout + done.stderr


def test_usage_imports_nothing_slow_and_threads_do_not_spin_long():
    code = "import sys, os; from contrastive.cli import main; main(['--help']); "
    code += "print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'])"
    environ = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ)
    assert done.stdout.splitlines()[-1] == "False 10000"


def test_options_are_checked_and_take_hyphens_or_underscores(command, digits_run):
    done = command("probe", digits_run, "--labelz", 3)
    assert done.returncode == 2 and "labelz" in done.stderr and "Traceback" not in done.stderr
    done = command("probe", digits_run, "--labels_per_class", 1, "--fraction", 0.5)
    assert done.returncode == 1 and "not both" in done.stderr


@pytest.mark.parametrize("args", [(), ("--data.source", "m.csv"), ("--trainer.max_epochs", 1)])
def test_a_command_line_without_a_configuration_is_told_of_one(command, args):
    done = command("pretrain", *args)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "give --config FILE" in done.stderr


def test_classes_of_the_users_own_lie_in_the_folder_that_a_command_is_given_in(command, tmp_path):
    (tmp_path / "very_own.py").write_text(
        "from torch import nn\n\n\nclass Flat(nn.Module):\n    num_features = 64\n\n"
        "    def forward(self, images):\n        return images.flatten(1)\n"
    )
    options = ["--model.encoder", "very_own.Flat", "--trainer.max_steps", 1, "--model.channels_last", "false"]
    done = command(
        "pretrain", "--config", DIGITS, "--run_dir", "run", "--wandb", "off", *options, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    # a file that is opened may be a stranger's, who put the module beside it
    embed = [Path(sys.executable).with_name("contrastive"), "embed", "run", "--output", "h.npy"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    refused = subprocess.run(embed, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert refused.returncode == 1 and "found on PYTHONPATH" in refused.stderr, refused.stderr
    done = subprocess.run(embed, cwd=tmp_path, env=environment | {"PYTHONPATH": "."}, capture_output=True)
    assert done.returncode == 0 and np.load(tmp_path / "h.npy").shape == (1797, 64), done.stderr


def test_runs_are_named_before_or_after_options():
    def probe(
        runs: list[str] | None = None, *, k: int = 20, raw: bool | None = None, seed: int = 0
    ) -> None: ...

    def parsed(text):
        return cli._with_runs(probe, cli._with_flags(probe, text.split()))

    named = '--runs=["A", "B"]'
    assert parsed("A B --k 5 --raw") == [named, "--k", "5", "--raw=true"]
    assert parsed("--k 5 A --raw B") == [named, "--k", "5", "--raw=true"]
    assert parsed("A --raw false --seed -1 B") == [named, "--raw", "false", "--seed", "-1"]
    assert parsed("--k=5 A B --help") == [named, "--k=5", "--help"]
    assert parsed("--runs [A] --k 5") == ["--runs", "[A]", "--k", "5"]


def test_quickstart_passes_its_bar(command, tmp_path):
    done = command("quickstart", "--output", tmp_path / "quick", timeout=900)
    assert done.returncode == 0, done.stderr
    assert "--repeats" not in done.stderr
    rows = json.loads((tmp_path / "quick" / "results" / "quickstart.json").read_text())
    assert {(row["representation"], row["labels_per_class"]) for row in rows} == {
        (name, k) for name in ("raw", "untrained", "scratch", "pretrained") for k in (1, 5, 20)
    }
    accuracy = {row["representation"]: row["accuracy_mean"] for row in rows if row["labels_per_class"] == 1}
    assert accuracy["pretrained"] >= 0.88
    assert accuracy["pretrained"] >= accuracy["raw"] + 0.25
    assert accuracy["pretrained"] > max(accuracy["untrained"], accuracy["scratch"])
    for row in rows:
        assert row["accuracy_ci95"][0] <= row["accuracy_mean"] <= row["accuracy_ci95"][1]
        assert row["num_draws"] == (5 if row["representation"] == "scratch" else 20)
    for name in ("embedding", "label_efficiency"):
        assert min(Image.open(tmp_path / "quick" / "plots" / f"{name}.png").size) > 400


def test_a_reader_that_has_enough_ends_a_command_in_silence(digits_run):
    command = [sys.executable, "-m", "contrastive.cli", "inspect", str(digits_run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait() in (1, 141)  # 1 where rich was the writer
    assert "Broken" not in said and "Traceback" not in said
