"""The quickstart of molecules: its data, what it says without the extra, and its report."""

import sys

import numpy as np
import pytest

from contrastive.errors import ContrastiveError
from contrastive.quickstart import probe_rows, report
from contrastive.quickstart_graphs import RECIPE, b3db_file, b3db_task, nci_file

rdkit = pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return b3db_task(seed=0)


def test_the_labelled_molecules_are_b3dbs(task):
    (split,) = task.splits
    assert 6200 < len(split.fit) + len(split.val) < 6250  # 80 % of the 7,807 molecules of Meng et al. 2021
    assert (np.bincount(task.y[split.test]) == len(split.test) / 2).all() and len(split.test) > 300
    smiles = task.dataset.smiles
    texts = [{smiles[i] for i in part} for part in split]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    known = {smiles[i]: int(task.y[i]) for part in split for i in part}
    assert known["Cn1c(=O)c2c(ncn2C)n(C)c1=O"] == 1  # caffeine wakes us up
    assert known["O=C(O)c1cc(N=Nc2ccc(S(=O)(=O)Nc3ccccn3)cc2)ccc1O"] == 0  # sulfasalazine stays in the gut


def test_the_unlabelled_molecules_are_the_ncis():
    assert len(nci_file().read_text().splitlines()) == 4999


@pytest.mark.parametrize("missing,call", [("rdkit", nci_file), ("B3DB", b3db_file)])
def test_a_missing_package_gives_the_command_that_installs_it(monkeypatch, missing, call):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr("contrastive.quickstart_graphs.find_spec", lambda name: None)
    with pytest.raises(ContrastiveError, match=r"pip install 'contrastive-pretraining\[molecules\]'"):
        call()


def test_the_report_is_a_table_two_pictures_and_their_numbers(task, tmp_path, capsys):
    from contrastive.evaluation.linear import Features
    from contrastive.evaluation.protocol import Protocol
    from contrastive.quickstart_graphs import DESCRIPTIONS, LABELS_PER_CLASS

    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 600)
    train = test = Features(y[:, None] + rng.normal(size=(1200, 4)), y)
    protocol = Protocol("B3DB", repeats=3)
    rows = probe_rows(dict.fromkeys(DESCRIPTIONS, (train, test)), LABELS_PER_CLASS, protocol)
    (tmp_path / "plots").mkdir()
    features = dict.fromkeys(("raw", "untrained", "pretrained"), (train, test))
    report(tmp_path, "of 1200", DESCRIPTIONS, rows, features, task.names, protocol.to_json())
    assert len(rows) == len(DESCRIPTIONS) * len(LABELS_PER_CLASS)
    printed = capsys.readouterr().out
    assert "of 1200" in printed and "fine-tuned" in printed
    for file in ("results/quickstart.json", "results/protocol.json", "plots/embedding.png"):
        assert (tmp_path / file).stat().st_size > 100


def test_the_command_reaches_it(command, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    done = command("quickstart", "--graphs", "--output", tmp_path)
    assert done.returncode == 1 and "already holds a run" in done.stderr
    assert "molecule" in command("quickstart", "--help").stdout and RECIPE.endswith("fingerprint_nci.yaml")
