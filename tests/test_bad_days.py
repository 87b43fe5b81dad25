"""What ends or could spoil a run, with real limits, full disks and dead processes, and what is said then."""

import contextlib
import os
import re
import socket
import subprocess
import sys

import faults_graphs
import pytest
import torch
from forked import pretrain, start
from pytorch_lightning import Trainer
from same_run import assert_same_run
from torch.utils.data import DataLoader, Dataset

from contrastive.checkpoint_files import WholeFiles
from contrastive.data.nodes import NodePasses
from contrastive.errors import ContrastiveError
from contrastive.faults import explained
from contrastive.loggers import MetricsCSV
from contrastive.losses import info_nce
from contrastive.resume import lock


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


@contextlib.contextmanager
def small_disk(path, size):
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"a disk of its own cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def test_a_full_disk_keeps_the_checkpoint_before(uninterrupted, tmp_path):
    with small_disk(tmp_path / "disk", "400k") as disk:
        run = pretrain(disk / "run", "graphs", **{"checkpoints.keep_last": 100})
        assert run.wait() == 1, run.printed
        assert "No space left on device; the checkpoint before it is whole" in run.printed
        assert "go on with --ckpt_path last" in run.printed
        assert not list((disk / "run" / "checkpoints").glob("*.part"))
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        run = pretrain(disk / "run", "graphs", ckpt_path="last", **{"checkpoints.keep_last": 100})
        assert run.wait() == 0, run.printed
        assert_same_run(disk / "run", uninterrupted("graphs"))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_features_on_a_full_disk_are_one_message(command, digits_run, suffix, tmp_path):
    with small_disk(tmp_path / "disk", "64k") as disk:
        done = command("embed", digits_run, "--data", "digits", "--output", disk / f"f{suffix}")
        assert done.returncode == 1 and f"f{suffix}: No space left on device" in done.stderr
        assert not list(disk.iterdir())


def test_a_row_that_a_full_disk_cut_is_none_of_an_earlier_step(tmp_path):
    logger = MetricsCSV(tmp_path)
    for step in (8, 12):
        logger.log_metrics({"loss": 0.5}, step)
    file = tmp_path / "metrics.csv"
    file.write_bytes(file.read_bytes().removesuffix(b"2\r\n"))  # of step 12 stays a 1
    MetricsCSV(tmp_path, steps_done=9)
    assert file.read_text().split() == ["loss,step", "0.5,8"]


def test_time_that_is_over_is_said_also_of_a_resume(folder):
    """Lightning's timer goes on from the checkpoint's; with the same ``max_time`` a resume has none left."""
    settings = {"trainer.max_time": "00:00:00:01", "trainer.max_epochs": 10_000}
    for path in ("auto", "last"):
        run = pretrain(folder, "graphs", ckpt_path=path, **settings)
        assert run.wait() == 0, run.printed
        assert "trainer.max_time is over, in which the time before a resume counts, after step" in run.printed


def test_output_that_cannot_be_written(tmp_path):
    run = pretrain(tmp_path / "run", run_dir="/proc/run")
    assert run.wait() == 1
    assert "cannot write to /proc/run" in run.printed and "give another folder" in run.printed


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to itself")
def test_sigterm_leaves_no_part_of_a_file(tmp_path):
    code = (
        "import os, signal; from pathlib import Path\n"
        "from contrastive.report import write_whole; from contrastive.signals import ended_by_sigterm\n"
        "def write(part): part.touch(); print(len(os.listdir('.'))); os.kill(os.getpid(), signal.SIGTERM)\n"
        "with ended_by_sigterm(): write_whole(Path('table.csv'), write)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (143, "1\n"), done.stderr
    assert not list(tmp_path.iterdir())


def test_two_runs_do_not_write_one_folder(folder):
    folder.mkdir()
    (folder / "checkpoints").mkdir()
    held = lock(folder)
    run = pretrain(folder)
    assert run.wait() == 1
    assert f"{folder} is being written by process {os.getpid()} on {socket.gethostname()}" in run.printed
    assert "give another --run_dir" in run.printed
    held.close()


def test_a_lock_ends_with_its_process_however_it_ends(folder):
    assert pretrain(folder, "graphs", workers=2, end=("SIGKILL", 1)).wait() == -9
    lock(folder).close()


def test_the_lock_names_its_holder(folder):
    folder.mkdir()
    code = f"from contrastive.resume import lock; import pathlib; f = lock(pathlib.Path({str(folder)!r}));"
    code += "print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ContrastiveError, match=f"is being written by process {other.pid} on"):
            lock(folder)
        other.kill()
    lock(folder).close()


def test_a_loss_that_is_not_finite(folder):
    settings = {"model.optimizer": "torch.optim.SGD", "model.optimizer.lr": 1e30, "model.warmup_epochs": 0}
    run = pretrain(folder, "graphs", **settings, **{"checkpoints.every_n_steps": 1})
    assert run.wait() == 1, run.printed
    assert "the loss is nan at step" in run.printed and "samples " in run.printed
    assert "the weights are untouched and the last checkpoint is good" in run.printed
    assert (folder / "checkpoints" / "last.ckpt").exists()


def test_out_of_memory_says_what_to_lower(folder):
    """With little memory above what the process takes once it has begun."""
    callbacks = ("--trainer.callbacks+=interruptions.LittleMemory", "--trainer.callbacks.step", 4)
    settings = {
        "data.init_args.batch_size": 320,
        "data.init_args.train_subset": 1200,
    }
    settings |= {"model.encoder.init_args.width": 64, "checkpoints.every_n_steps": 1}
    run = pretrain(folder, callbacks=callbacks, **settings)
    assert run.wait() == 1, run.printed
    assert "out of memory at step" in run.printed
    assert "Lower data.init_args.batch_size, though fewer samples are fewer negatives" in run.printed
    assert "accumulate_negatives" in run.printed
    assert "is whole; go on from it with --ckpt_path last" in run.printed


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc")])
def test_memory_that_runs_out_while_a_checkpoint_is_written(error):
    """What is left unended raises another error; of C++ there is but a name."""
    try:
        try:
            raise error
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 826237 vs 826192")
    except RuntimeError as raised:
        said = str(explained(raised, Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")))
    assert f"out of memory at step 0 ({str(error) or 'MemoryError'}). Lower data.init_args" in said


def test_a_data_worker_that_dies(uninterrupted, folder):
    callbacks = ("--trainer.callbacks+=interruptions.KillWorker", "--trainer.callbacks.step", 8)
    run = pretrain(folder, workers=2, callbacks=callbacks)
    assert run.wait() == 1, run.printed
    assert (
        "a process that reads data died" in run.printed and "lower data.init_args.num_workers" in run.printed
    )
    run = pretrain(folder, workers=2, ckpt_path="last")
    assert run.wait() == 0, run.printed
    assert_same_run(folder, uninterrupted("digits"))


def test_a_data_worker_that_dies_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    """torch raises it in the midst of the writing, and the file that is left unended raises another error."""
    writes = iter(range(100))

    def write(self, data):
        if next(writes) == 2:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
        return self.file.write(data)

    monkeypatch.setattr("contrastive.checkpoint_files._Hashed.write", write)
    with pytest.raises(RuntimeError, match="unexpected pos") as raised:
        WholeFiles().save_checkpoint({"w": torch.zeros(100000), "global_step": 3}, tmp_path / "step-3.ckpt")
    said = str(explained(raised.value, Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")))
    assert "a process that reads data died" in said and "(pid 7) is killed by signal" in said
    assert not list(tmp_path.glob("*.ckpt"))


def test_a_second_derivative_that_there_is_not_is_said_without_a_traceback():
    z = torch.randn(4, 3, requires_grad=True)
    with pytest.raises(NotImplementedError) as raised:
        torch.autograd.grad(info_nce(z, z.flip(0)), z, create_graph=True)
    said = explained(raised.value, Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"))
    assert "contrastive losses have no second derivative" in str(said)


def test_an_optimizer_s_state_of_other_parameters_is_said_without_a_traceback():
    """As of an R-GCN without free vectors, whose nodes once had biases."""
    first, second = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    state = torch.optim.AdamW([first, second]).state_dict()
    with pytest.raises(ValueError) as raised:
        torch.optim.AdamW([first]).load_state_dict(state)
    said = explained(raised.value, Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"))
    assert "the optimizer's state in the checkpoint is of other parameters" in str(said)


class Broken:
    """A sample whose transfer from the worker breaks off, as it does when the worker has died amid it."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        return _raise, (self.error,)


def _raise(error):
    raise error


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
@pytest.mark.parametrize("where", ["on the way", "in the data set"])
def test_a_worker_whose_connection_breaks_before_its_death_is_seen(error, where):
    """A data set's own broken connection, as to a store on the network, is not a death."""
    samples = [Broken(error)] if where == "on the way" else Unread(error)
    with pytest.raises((ConnectionError, EOFError)) as raised:
        list(DataLoader(samples, batch_size=None, num_workers=1))
    said = explained(raised.value, Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"))
    assert ("a process that reads data died at step 0" in str(said)) == (where == "on the way")


class Unread(Dataset):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise self.error


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_others(rank, folder):
    sender = ("--trainer.callbacks+=interruptions.SignalAt", "--trainer.callbacks.step", 10)
    run = pretrain(folder, world_size=2, callbacks=(*sender, "--trainer.callbacks.rank", rank))
    assert run.status(rank) == -9, run.printed
    assert run.status(1 - rank) == 1, run.printed
    assert f"process {1 - rank} lost another one at step" in run.printed
    assert "step-9.ckpt is whole; go on from it with --ckpt_path last" in run.printed


def test_a_process_that_fails_ends_the_others_and_its_error_is_shown(folder):
    fault = ("--trainer.callbacks+=interruptions.RaiseAt", "--trainer.callbacks.step", 10)
    run = pretrain(folder, world_size=2, callbacks=(*fault, "--trainer.callbacks.rank", 1))
    assert run.wait() == 1, run.printed
    assert "ArithmeticError: a fault of the user's own" in run.printed
    assert "process 0 lost another one at step" in run.printed


def test_a_run_asks_nobody_outside_and_keeps_its_id_at_weights_and_biases(folder, tmp_path):
    """Offline, as for a user without a key, with a process that ends and is resumed."""
    env = {"WANDB_API_KEY": "", "HOME": str(tmp_path)}
    hook = ("--trainer.callbacks+=interruptions.Connections", "--trainer.callbacks.file", tmp_path / "asked")
    assert pretrain(folder, "graphs", env=env, callbacks=hook, wandb="auto", end=("SIGKILL", 10)).wait() == -9
    assert (tmp_path / "asked").read_text() == ""
    run = pretrain(folder, "graphs", env=env, callbacks=hook, wandb="auto", ckpt_path="last")
    assert run.wait() == 0, run.printed
    assert (tmp_path / "asked").read_text() == "192.0.2.1 false\n"  # the callback's own, at the end
    ids = {path.name.rpartition("-")[2] for path in (folder / "wandb").glob("offline-run-*")}
    assert ids == {(folder / "wandb_id").read_text()}


def test_weights_and_biases_that_cannot_be_reached(folder):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens there
        env = {"WANDB_BASE_URL": f"http://127.0.0.1:{closed.getsockname()[1]}", "WANDB_API_KEY": "0" * 40}
        env["WANDB_INIT_TIMEOUT"] = "5"  # half a minute where the user has set nothing
        run = pretrain(folder, "graphs", env=env, wandb="online")
        assert run.wait() == 0, run.printed
    assert "Weights & Biases cannot be reached" in run.printed
    assert list((folder / "wandb").glob("offline-run-*"))


def test_processes_from_outside_need_one_folder(tmp_path):
    args = ["pretrain", "--config", "configs/image/simclr_digits.yaml"]
    run = start(args, tmp_path / "log", env={"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"})
    assert run.wait() == 1
    assert "several processes need one folder that they agree on; give --run_dir" in run.printed


@pytest.mark.parametrize(
    "variables",
    [
        {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"},  # torchrun
        {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"},
        {"RANK": "1"},  # left by another job
        {"NODE_RANK": "1"},
    ],
)
def test_a_process_of_several_does_not_train_alone(variables, folder):
    """It would write the others' checkpoints, on samples of its own, or no metrics."""
    run = pretrain(folder, "graphs", env=variables)
    assert run.wait() == 1, run.printed
    assert "says that this is one of several processes, but trainer.devices times" in run.printed
    assert not folder.exists()


@pytest.mark.parametrize("variables", [{"WORLD_SIZE": "", "NODE_RANK": ""}, {"SLURM_NTASKS": "2"}])
def test_variables_of_a_cluster_that_say_nothing_or_too_little(variables, folder):
    variables |= {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train"} if "SLURM_NTASKS" in variables else {}
    run = pretrain(folder, "graphs", env=variables, **{"trainer.max_epochs": 1})
    assert run.wait() == int("SLURM_NTASKS" in variables), run.printed
    assert "Traceback" not in run.printed
    assert (
        "SLURM_NTASKS" not in variables or "the trainer cannot be built: You set `--ntasks=2`" in run.printed
    )


@pytest.mark.parametrize(
    "fails, said",
    [
        (lambda z: info_nce(z[:1], z[:1]), "a batch of 1 is compared.* give a batch_size of 2 or more"),
        (lambda z: torch.nn.BatchNorm1d(4)(z[:1]), "a batch norm was given one sample.*batch_size of 2"),
        (lambda z: NodePasses(None, num_targets=1, fanouts=None, seed=0).__getitems__([1, 2]), None),
        (lambda z: torch.nn.Linear(4, 2)(z.double()), "precision 64-true does not fit views or encoder"),
        (lambda z: [][0], None),
    ],
)
def test_what_a_step_refuses_is_a_message_and_what_it_gets_wrong_a_traceback(fails, said):
    with pytest.raises(Exception) as raised:
        fails(torch.ones(3, 4))
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", precision="64-true")
    found = explained(raised.value, trainer)
    assert found is None if said is None else re.search(said, str(found))


@pytest.mark.parametrize(
    "arguments, said",
    [
        (
            {"node_features": 3},
            r"SummedGraphs does not fit graphs whose nodes have 1 number\(s\) each: mat1 and mat2 shapes "
            r"cannot be multiplied \(8x1 and 3x8\) \(.*faults_graphs.py, line \d+\). Give it arguments",
        ),
        (
            {"node_features": 1, "num_features": 5},
            r"SummedGraphs gives features \(4, 5\), but its num_features is 8",
        ),
    ],
)
def test_an_encoder_that_does_not_fit(arguments, said, tmp_path):
    options = {f"model__encoder__{name}": value for name, value in arguments.items()}
    encoder = {"model__encoder": "faults_graphs.SummedGraphs"}
    with pytest.raises(ContrastiveError, match=said):
        faults_graphs.recipe("graph/graphcl", "TOY", **encoder, **options)(tmp_path)
