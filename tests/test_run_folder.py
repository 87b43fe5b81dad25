"""A run that ends before its first step leaves no folder, and one that had begun, or was there, is kept."""

import resource
import shutil
import sys
from types import SimpleNamespace

import pytest
from forked import pretrain as start

from contrastive.errors import ContrastiveError
from contrastive.loggers import end_wandb
from contrastive.pretrain import pretrain
from contrastive.run_folder import make_folder, remove_folders, settle_folder

DIGITS = ["--config", "configs/image/simclr_digits.yaml", "--trainer.accelerator", "cpu"]
DIGITS += ["--trainer.enable_progress_bar", "false", "--wandb", "off"]
REFUSED = {
    "a source that is not there": (["--data.init_args.source", "/no/such/place"], "/no/such/place"),
    "a batch above the data": (["--data.init_args.batch_size", "5000"], "lower data.init_args.batch_size"),
    "channels that the model does not take": (["--data.init_args.channels", "3"], "set in_channels"),
    "an option out of range": (["--checkpoints.keep_last", "0"], "cannot be built: keep_last"),
    "a checkpoint that is not there": (["--ckpt_path", "last"], "no checkpoint"),
    "an encoder that is not there": (["--init_from", "/no/such/run"], "/no/such/run"),
}


@pytest.mark.parametrize("options, says", REFUSED.values(), ids=REFUSED)
def test_nothing_is_left_of_a_run_that_is_refused(options, says, tmp_path):
    with pytest.raises(ContrastiveError, match=says):
        pretrain([*DIGITS, "--run_dir", str(tmp_path / "runs" / "digits" / "1"), *options])
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_at_weights_and_biases_either(tmp_path):
    """Lightning begins the run there before it reads the data."""
    run = start(tmp_path / "run", wandb="offline", **{"data.init_args.source": "/no/such/place"})
    assert run.wait() == 1, run.printed
    assert "/no/such/place" in run.printed and "Traceback" not in run.printed
    assert not (tmp_path / "run").exists()


def test_what_was_there_before_stays(tmp_path):
    """Another run beside it, and a file of the user's own in a folder that is given."""
    beside, own = tmp_path / "runs" / "1", tmp_path / "given" / "notes.txt"
    for file in (beside / "config.yaml", own):
        file.parent.mkdir(parents=True)
        file.write_text("mine")
    for run_dir in (beside.with_name("2"), own.parent):
        with pytest.raises(ContrastiveError):
            pretrain([*DIGITS, "--run_dir", str(run_dir), "--data.init_args.source", "/no/such/place"])
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["1"]
    assert own.read_text() == (beside / "config.yaml").read_text() == "mine"


def test_a_configuration_that_cannot_be_written_leaves_the_one_before(digits_run, tmp_path):
    run = shutil.copytree(digits_run, tmp_path / "run", symlinks=True)
    before, (soft, hard) = (run / "config.yaml").read_text(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(ContrastiveError, match=r"config\.yaml: File too large; make room"):
            pretrain([*DIGITS, "--trainer.max_epochs", "2", "--run_dir", str(run), "--ckpt_path", "last"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (run / "config.yaml").read_text() == before


def test_a_folder_that_is_reached_through_one_that_is_made_stays(tmp_path):
    """The system cannot see it before ``new`` is there."""
    own = tmp_path / "given" / "notes.txt"
    own.parent.mkdir()
    own.write_text("mine")
    with pytest.raises(ContrastiveError, match="/no/such/place"):
        pretrain(
            [*DIGITS, "--run_dir", f"{tmp_path}/new/../given", "--data.init_args.source", "/no/such/place"]
        )
    assert own.read_text() == "mine"


def test_the_folder_of_a_run_that_took_the_lock_stays(tmp_path, monkeypatch):
    """Another run starts in the very moment: one makes the folder, the other one holds it."""

    def taken(run_dir):
        (run_dir / "config.yaml").write_text("theirs")
        raise ContrastiveError("is being written by another one")

    monkeypatch.setattr("contrastive.pretrain.lock", taken)
    with pytest.raises(ContrastiveError, match="being written"):
        pretrain([*DIGITS, "--run_dir", str(tmp_path / "run")])
    assert (tmp_path / "run" / "config.yaml").read_text() == "theirs"


@pytest.mark.parametrize("name", ["checkpoints/step-3.ckpt", "metrics.csv", "notes.txt"])
def test_a_folder_with_more_than_a_start_in_it_stays(name, tmp_path):
    """As of processes that Lightning forks, whose first step the one that started them does not see."""
    made = make_folder(tmp_path / "runs" / "1")
    assert made == [tmp_path / "runs" / "1", tmp_path / "runs"] and make_folder(made[0]) == []
    file = made[0] / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("loss,step\n0.5,0\n")
    remove_folders(made)
    assert file.exists()
    file.unlink()
    remove_folders(made)
    assert not list(tmp_path.iterdir())


def test_a_run_of_the_callers_own_at_weights_and_biases_stays_open(tmp_path, monkeypatch):
    ended = []
    wandb = SimpleNamespace(
        run=SimpleNamespace(id="theirs"), finish=lambda exit_code: ended.append(exit_code)
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    end_wandb(tmp_path)
    (tmp_path / "wandb_id").write_text("ours")
    end_wandb(tmp_path)
    assert not ended
    wandb.run.id = "ours"
    end_wandb(tmp_path)
    assert ended == [1]


def test_a_run_that_failed_in_its_first_step_is_kept(tmp_path):
    fault = ("--trainer.callbacks+=interruptions.RaiseAt", "--trainer.callbacks.step", 0)
    run = start(tmp_path / "run", callbacks=(*fault, "--trainer.callbacks.rank", 0))
    assert run.wait() == 1, run.printed
    assert (tmp_path / "run" / "config.yaml").is_file() and (tmp_path / "run" / "metrics.csv").is_file()


def test_a_job_that_is_started_again_names_its_folder():
    """Each start would be a new run in a folder of its own."""
    with pytest.raises(ContrastiveError, match="ckpt_path auto goes on with what is in --run_dir"):
        settle_folder(None, "simclr", "auto")
