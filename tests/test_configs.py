"""Every recipe is built and run for two steps on small data, through the command's own parser."""

from pathlib import Path

import numpy as np
import pytest

from contrastive.config_files import find_config
from contrastive.pretrain import pretrain

CONFIGS = sorted((Path(__file__).parent.parent / "configs").rglob("*.yaml"))


def small_images(config, folder):
    """scikit-learn's digits stand in for data that would be downloaded."""
    if "digits" in config.stem:
        return {}
    settings = {"source": "digits", "channels": 3, "image_size": "null", "num_workers": 0}
    return {"model.encoder.init_args.width": 8} | {f"data.init_args.{k}": v for k, v in settings.items()}


def small_molecules(config, folder):
    (folder / "molecules.smi").write_text("\n".join("C" * n + "O" for n in range(1, 17)) + "\n")
    return {"data.init_args.source": folder / "molecules.smi", "data.init_args.cache_dir": folder}


def small_graphs(config, folder):
    """Paths of two nodes each, without features."""
    edges = [f"{v}, {v + 1}\n{v + 1}, {v}" for v in range(1, 33, 2)]
    (folder / "TOY_A.txt").write_text("\n".join(edges))
    (folder / "TOY_graph_indicator.txt").write_text("\n".join(f"{g}\n{g}" for g in range(1, 17)))
    return {"data.init_args.source": folder, "model.encoder.node_features": 65}


def small_network(config, folder):
    """A ring of 16 nodes with 4 features."""
    ring = np.stack([np.arange(16), np.roll(np.arange(16), 1)], axis=1)
    np.savez(folder / "ring.npz", edges=ring, x=np.random.default_rng(0).random((16, 4)))
    return {"data.init_args.source": folder / "ring.npz", "model.encoder.node_features": 4}


def small_links(config, folder):
    """Half of the pairs of 16 nodes, in two relations."""
    draws = np.random.default_rng(0).random((2, 16, 16))
    rows = [f"{u},r{r},{v}" for r in range(2) for u in range(16) for v in range(u) if draws[r, u, v] < 0.5]
    (folder / "links.csv").write_text("\n".join(["head,relation,tail", *rows]))
    settings = {"source": folder / "links.csv", "columns": "null", "types": "null", "context": "[]"}
    settings |= {"min_links": 1, "min_value": "null", "val_fraction": 0.2, "test_fraction": 0.2}
    return {f"data.init_args.{key}": value for key, value in settings.items()}


STAND_INS = {
    "link": small_links,
    "image": small_images,
    "molecule": small_molecules,
    "graph": small_graphs,
    "node": small_network,
}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_recipe_runs(config, tmp_path):
    settings = {
        "run_dir": tmp_path / "run",
        "wandb": "off",
        "trainer.max_steps": 2,
        "trainer.enable_progress_bar": "false",
        "trainer.accelerator": "cpu",
        "data.init_args.batch_size": 8,
    }
    settings |= STAND_INS[config.parent.name](config, tmp_path)
    folder = pretrain(["--config", str(config), *(f"--{key}={value}" for key, value in settings.items())])
    assert (folder / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_recipe_says_where_it_comes_from(config):
    head = "".join(line for line in config.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert (
        "arXiv" in head
        and f"contrastive pretrain --config configs/{config.parent.name}/{config.name}" in head
    )


def test_recipes_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("configs/image/simclr_digits.yaml").is_file()
