"""A run that ends at any step and is resumed goes on, to the bit, as if nothing had happened."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from forked import pretrain
from PIL import Image
from same_run import assert_same_run, last, steps

from contrastive.checkpoints import Checkpoints
from contrastive.data.links import LinkData
from contrastive.data.nodes import NodeData
from contrastive.errors import ContrastiveError
from contrastive.resume import changed_settings


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def resume(folder, data="digits", **settings):
    run = pretrain(folder, data, ckpt_path="last", **settings)
    assert run.wait() == 0, run.printed
    return run


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("data", ["digits", "graphs"])
def test_sigkill(data, workers, world_size, uninterrupted, folder):
    run = pretrain(folder, data, workers=workers, world_size=world_size, end=("SIGKILL", 10))
    assert run.wait() == -9, run.printed
    assert last(folder)["global_step"] == 9  # half of the second epoch's six steps
    resume(folder, data, workers=workers, world_size=world_size)
    assert_same_run(folder, uninterrupted(data, world_size), world_size)


def test_a_method_of_ones_own_keeps_its_queue_and_its_averaged_encoder(uninterrupted, folder):
    assert pretrain(folder, "queue", end=("SIGKILL", 10)).wait() == -9
    saved = last(folder)["state_dict"]
    assert not torch.equal(saved["queue"], torch.eye(64)) and any("averaged" in key for key in saved)
    resume(folder, "queue")
    assert_same_run(folder, uninterrupted("queue"))


def test_weights_in_double_precision_keep_all_their_bits(folder, tmp_path):
    precision = {"trainer.precision": "64-true"}
    whole = pretrain(tmp_path / "whole", "graphs", **precision)
    assert whole.wait() == 0, whole.printed
    assert pretrain(folder, "graphs", end=("SIGKILL", 10), **precision).wait() == -9
    resume(folder, "graphs", **precision)
    assert_same_run(folder, tmp_path / "whole")


def test_a_trial_of_few_steps_is_no_beginning_of_a_run(folder):
    run = pretrain(folder, "graphs", **{"trainer.fast_dev_run": 2})
    assert run.wait() == 0, run.printed
    run = pretrain(folder, "graphs", ckpt_path="auto")
    assert run.wait() == 1
    assert "trainer.fast_dev_run was 2 and is False" in run.printed


def write_stream(kind, folder):
    """96 images of noise as four tar shards, or as chunks of litdata; returns the source."""
    files = []
    for i in range(96):
        stream = io.BytesIO()
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)).save(stream, "PNG")
        files.append(stream.getvalue())
    if kind == "litdata":
        from litdata.streaming.cache import Cache

        cache = Cache(str(folder), chunk_size=4)
        for i, file in enumerate(files):
            cache[i] = {"image": file}
        cache.done()
        cache.merge()
        return f"litdata:{folder}"
    for i, file in enumerate(files):
        with tarfile.open(folder / f"{i // 24}.tar", "a") as tar:
            member = tarfile.TarInfo(f"{i:02}.png")
            member.size = len(file)
            tar.addfile(member, io.BytesIO(file))
    return folder / "{0..3}.tar"


@pytest.mark.parametrize(
    ("kind", "workers", "world_size"), [("webdataset", 2, 1), ("litdata", 0, 1), ("litdata", 2, 2)]
)
def test_sigkill_amid_a_stream(kind, workers, world_size, folder, tmp_path):
    pytest.importorskip(kind, reason=f"needs {kind}: pip install {kind}")
    (tmp_path / "data").mkdir()
    options = {"workers": workers, "world_size": world_size}
    options |= {"data.init_args.source": write_stream(kind, tmp_path / "data")}
    whole = pretrain(tmp_path / "whole", "stream", **options)
    assert whole.wait() == 0, whole.printed
    assert pretrain(folder, "stream", end=("SIGKILL", 10), **options).wait() == -9
    assert last(folder)["global_step"] == 9
    resume(folder, "stream", **options)
    assert_same_run(folder, tmp_path / "whole", world_size)


def test_another_number_of_workers_of_a_stream_is_refused(folder, tmp_path):
    pytest.importorskip("webdataset", reason="needs webdataset: pip install webdataset")
    (tmp_path / "data").mkdir()
    source = {"data.init_args.source": write_stream("webdataset", tmp_path / "data")}
    assert pretrain(folder, "stream", workers=2, end=("SIGKILL", 10), **source).wait() == -9
    run = pretrain(folder, "stream", workers=1, ckpt_path="last", **source)
    assert run.wait() == 1, run.printed
    assert "data.init_args.num_workers was 2 on 1 process(es) and is 1 on 1" in run.printed


@pytest.mark.parametrize(("name", "workers", "world_size"), [("SIGTERM", 2, 1), ("SIGINT", 0, 2)])
def test_signals_that_ask_save_first(name, workers, world_size, uninterrupted, folder):
    run = pretrain(folder, workers=workers, world_size=world_size, end=(name, 10))
    status = {"SIGTERM": 143, "SIGINT": 130}[name]
    assert run.wait() == status, run.printed
    assert f"stopped by {name} after step 11; go on with --ckpt_path last" in run.printed
    assert "Traceback" not in run.printed
    assert last(folder)["global_step"] == 11
    resume(folder, workers=workers, world_size=world_size)
    assert_same_run(folder, uninterrupted("digits", world_size), world_size)


def test_a_signal_to_one_process_stops_all(folder):
    sender = ("--trainer.callbacks+=interruptions.SignalAt", "--trainer.callbacks.step", 4)
    sender += ("--trainer.callbacks.name", "SIGTERM", "--trainer.callbacks.rank", 1)
    run = pretrain(folder, world_size=2, callbacks=sender)
    assert run.wait() == 143, run.printed
    assert "stopped by SIGTERM after step 5" in run.printed


def test_a_signal_in_the_last_step_of_an_epoch(uninterrupted, folder):
    run = pretrain(folder, end=("SIGTERM", 5))
    assert run.wait() == 143, run.printed
    assert last(folder)["global_step"] == 6
    resume(folder)
    assert_same_run(folder, uninterrupted("digits"))


def test_killed_twice_and_by_other_numbers_of_workers(uninterrupted, folder):
    assert pretrain(folder, "graphs", workers=2, end=("SIGKILL", 4)).wait() == -9
    assert pretrain(folder, "graphs", end=("SIGKILL", 13), ckpt_path="auto").wait() == -9
    resume(folder, "graphs", workers=1)
    assert_same_run(folder, uninterrupted("graphs"))


def test_killed_before_the_first_checkpoint_begins_anew(uninterrupted, folder):
    assert pretrain(folder, "graphs", end=("SIGKILL", 1), ckpt_path="auto").wait() == -9
    run = pretrain(folder, "graphs", ckpt_path="auto")
    assert run.wait() == 0, run.printed
    assert_same_run(folder, uninterrupted("graphs"))


def test_slurm_requeues_after_sigusr1(folder, tmp_path):
    """With a stand-in for scontrol, which writes down what it is asked."""
    script = tmp_path / "scontrol"
    script.write_text(f"#!/bin/sh\necho $@ > {tmp_path}/asked\n")
    script.chmod(0o755)
    env = {"SLURM_JOB_ID": "17", "PATH": f"{tmp_path}:/usr/bin:/bin"}
    run = pretrain(folder, end=("SIGUSR1", 7), env=env)
    assert run.wait() == 138, run.printed
    assert "stopped by SIGUSR1 after step 8" in run.printed
    assert "SLURM job 17 was requeued" in run.printed
    assert (tmp_path / "asked").read_text() == "requeue 17\n"
    assert last(folder)["global_step"] == 8


def test_the_slurm_scripts_start_what_they_should(tmp_path):
    """With a stand-in for srun, which has the command print its configuration."""
    one, many = (Path("scripts/slurm") / f"{name}.sbatch" for name in ("one_node", "many_nodes"))
    commands = [script.read_text().partition("srun ")[2] for script in (one, many)]
    assert commands[0] == commands[1] != ""
    (tmp_path / "srun").write_text('#!/bin/sh\nexec "$@" --print_config\n')
    (tmp_path / "srun").chmod(0o755)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    slurm = {"SLURM_JOB_ID": "17", "SLURM_JOB_NUM_NODES": "3", "SLURM_NTASKS_PER_NODE": "2"}
    arguments = ["--config", "configs/image/simclr_digits.yaml", "--model.warmup_epochs", "2"]
    done = subprocess.run(
        ["bash", many, *arguments], capture_output=True, text=True, env=os.environ | slurm | {"PATH": path}
    )
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert (config["run_dir"], config["ckpt_path"]) == ("runs/slurm-17", "auto")
    assert (config["trainer"]["num_nodes"], int(config["trainer"]["devices"])) == (3, 2)
    assert config["model"]["init_args"]["warmup_epochs"] == 2


def test_max_steps_within_an_epoch_does_not_end_it(folder, tmp_path):
    """With a learning rate of 0 the losses say which samples and views were drawn, under any schedule."""
    still = {"model.optimizer.init_args.lr": 0, "trainer.max_epochs": -1}
    whole = tmp_path / "whole"
    run = pretrain(whole, "graphs", **still, **{"trainer.max_steps": 14})
    assert run.wait() == 0, run.printed
    run = pretrain(folder, "graphs", **still, **{"trainer.max_steps": 8})
    assert run.wait() == 0, run.printed
    for steps_more in (12, 14):  # from within an epoch, and from an epoch's end
        resume(folder, "graphs", allow_changes="true", **still, **{"trainer.max_steps": steps_more})
    assert steps(folder, 0) == steps(whole, 0)
    assert last(folder)["epoch"] == 2


def test_a_finished_run_stays_as_it_is(uninterrupted, folder):
    shutil.copytree(uninterrupted("graphs"), folder, symlinks=True)
    shutil.copytree(f"{uninterrupted('graphs')}-data", f"{folder}-data")
    before = (folder / "metrics.csv").read_text(), (folder / "checkpoints" / "last.ckpt").read_bytes()
    source = f"{uninterrupted('graphs')}-data/RINGS"
    run = resume(folder, "graphs", **{"data.init_args.source": source})
    assert "nothing was left to train after step 18" in run.printed
    assert ((folder / "metrics.csv").read_text(), (folder / "checkpoints/last.ckpt").read_bytes()) == before


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda content: content[:-1000], "is damaged: it has"),
        (lambda content: content[:2000] + b"?" + content[2001:], "is damaged: its SHA-256"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(damage, says, uninterrupted, folder):
    assert pretrain(folder, "graphs", end=("SIGKILL", 10)).wait() == -9
    newest = (folder / "checkpoints" / "last.ckpt").resolve()
    newest.write_bytes(damage(newest.read_bytes()))
    run = resume(folder, "graphs")
    assert f"{newest} {says}" in run.printed
    assert "the checkpoint before it is used" in run.printed
    assert_same_run(folder, uninterrupted("graphs"))


def test_a_clock_that_was_set_back(uninterrupted, folder):
    """What is written now would be the oldest by the clock, and the first to be removed."""
    assert pretrain(folder, "graphs", end=("SIGKILL", 10)).wait() == -9
    for file in (folder / "checkpoints").glob("step-*.json"):
        record = json.loads(file.read_text())
        file.write_text(json.dumps(record | {"saved": record["saved"] + 3600}))
    resume(folder, "graphs")
    assert_same_run(folder, uninterrupted("graphs"))


@pytest.mark.parametrize(
    "lose",
    [
        lambda checkpoints: (checkpoints / "last.ckpt").unlink(),
        lambda checkpoints: (checkpoints / "step-9.ckpt").unlink(),  # the link is left
        lambda checkpoints: (checkpoints / "step-9.json").write_text(""),  # as a crash of the system does
    ],
)
def test_a_run_that_lost_a_file_of_its_newest_checkpoint_does_not_begin_anew(lose, uninterrupted, folder):
    assert pretrain(folder, "graphs", end=("SIGKILL", 10)).wait() == -9
    lose(folder / "checkpoints")
    (folder / "losses-0").unlink()
    run = pretrain(folder, "graphs")
    assert run.wait() == 1 and f"{folder} already holds a run" in run.printed
    run = pretrain(folder, "graphs", ckpt_path="auto")
    assert run.wait() == 0, run.printed
    assert len(steps(folder, 0)) <= 12  # from step 6 or 9
    (folder / "losses-0").write_bytes((uninterrupted("graphs") / "losses-0").read_bytes())
    assert_same_run(folder, uninterrupted("graphs"))


def test_no_checkpoint_that_is_whole(folder):
    assert pretrain(folder, "graphs", end=("SIGKILL", 10)).wait() == -9
    for file in (folder / "checkpoints").glob("step-*.ckpt"):
        file.write_bytes(b"")
    run = pretrain(folder, "graphs", ckpt_path="last")
    assert run.wait() == 1
    assert f"there is no checkpoint in {folder / 'checkpoints'} to resume from" in run.printed


def test_a_shard_that_is_gone_is_refused(folder, tmp_path):
    """The others would come in another order, in which an epoch's rest has samples that it had before."""
    pytest.importorskip("webdataset", reason="needs webdataset: pip install webdataset")
    (tmp_path / "data").mkdir()
    write_stream("webdataset", tmp_path / "data")
    source = {"data.init_args.source": tmp_path / "data" / "*.tar"}
    assert pretrain(folder, "stream", end=("SIGKILL", 10), **source).wait() == -9
    (tmp_path / "data" / "2.tar").unlink()
    run = pretrain(folder, "stream", ckpt_path="last", **source)
    assert run.wait() == 1, run.printed
    assert "the data holds 3 shards for pretraining, and held 4 when the checkpoint was" in run.printed


@pytest.mark.parametrize("data", [NodeData("g"), LinkData("l")])
def test_the_size_of_one_graph_is_compared_too(data):
    """It has no data set of its samples."""
    data.nodes = SimpleNamespace(graph=SimpleNamespace(num_nodes=7))
    data.split = SimpleNamespace(train=torch.zeros(7, 3))
    trainer = SimpleNamespace(datamodule=data)
    Checkpoints().on_load_checkpoint(trainer, None, {"num_samples": 7})
    with pytest.raises(ContrastiveError, match="holds 7 samples for pretraining, and held 8"):
        Checkpoints().on_load_checkpoint(trainer, None, {"num_samples": 8})


def test_changed_settings_are_refused_by_name(folder):
    assert pretrain(folder, end=("SIGKILL", 10)).wait() == -9
    changed = {
        "model.loss.init_args.temperature": 0.3,
        "model.views.init_args.noise": 0.2,
        "data.init_args.batch_size": 32,
        "data.init_args.train_subset": 310,
        "trainer.log_every_n_steps": 2,  # free
    }
    run = pretrain(folder, ckpt_path="last", **changed)
    assert run.wait() == 1
    assert "model.init_args.loss.init_args.temperature was 0.7 and is 0.3" in run.printed
    assert "model.init_args.views.0.init_args.noise was 0.1 and is 0.2" in run.printed
    assert "data.init_args.train_subset was 320" in run.printed
    assert "data.init_args.batch_size was 48 on 1 process(es) and is 32 on 1" in run.printed
    assert "log_every" not in run.printed
    run = pretrain(folder, ckpt_path="last", allow_changes="true", **{"data.init_args.batch_size": 32})
    assert run.wait() == 0, run.printed
    assert "resuming with changed settings" in run.printed


def test_the_optimizer_s_settings_are_those_of_its_state(folder):
    sgd = {"model.optimizer": "torch.optim.SGD", "model.optimizer.lr": 0.01}
    assert pretrain(folder, "graphs", end=("SIGKILL", 10), **sgd).wait() == -9
    allowed = {"ckpt_path": "last", "allow_changes": "true"}
    run = pretrain(folder, "graphs", **allowed, **{"model.optimizer": "torch.optim.Adam"})
    assert run.wait() == 1
    assert "optimizer.class_path was 'torch.optim.SGD' and is 'torch.optim.Adam'" in run.printed
    assert "Set them back, start a new --run_dir\n" in run.printed
    run = resume(folder, "graphs", allow_changes="true", **(sgd | {"model.optimizer.lr": 0.2}))
    assert "the optimizer's stay as they were: they are part of its state" in run.printed
    assert {group["initial_lr"] for group in last(folder)["optimizer_states"][0]["param_groups"]} == {0.01}


def test_the_number_of_processes_may_change_with_the_batch_over_all_of_them(uninterrupted, folder):
    assert pretrain(folder, world_size=2, end=("SIGKILL", 10)).wait() == -9
    (folder / "losses-0").unlink()
    resume(folder)
    samples = [[line.split("]")[0] for line in steps(run, 0)] for run in (folder, uninterrupted("digits"))]
    assert samples[0] == samples[1][9:]


def test_kept_are_the_last_two_and_the_best(uninterrupted):
    folder = uninterrupted("digits") / "checkpoints"
    best = (folder / "best.ckpt").resolve().stem
    kept = {f"{stem}.{ending}" for stem in ("step-15", "step-18", best) for ending in ("ckpt", "json")}
    assert {path.name for path in folder.iterdir()} == {"last.ckpt", "best.ckpt", *kept}


class _Code:
    """Unpickled, it would run a command."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_checkpoint_with_code_in_it_is_not_opened(folder, tmp_path):
    torch.save({"state_dict": {}, "global_step": _Code(tmp_path / "ran")}, tmp_path / "evil.ckpt")
    run = pretrain(folder, ckpt_path=tmp_path / "evil.ckpt")
    assert run.wait() == 1
    assert f"{tmp_path / 'evil.ckpt'} cannot be read" in run.printed
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_a_module_from_python_has_no_settings_to_compare():
    """Only how it normalised; all others would be said to have been None, and its optimizer another."""
    config = {"model": {"optimizer": {"class_path": "torch.optim.AdamW"}}, "trainer": {"max_epochs": 2}}
    assert changed_settings({"config": {"model": {"preprocess": {}}}}, config, 1) == []
    assert changed_settings({"config": config | {"trainer": {"max_epochs": 1}}}, config, 1)
