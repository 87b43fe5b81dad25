"""Every recipe is built and run for two steps on small images, through the command's own parser."""

from pathlib import Path

import pytest

from contrastive.pretrain import find_config, pretrain

CONFIGS = sorted((Path(__file__).parent.parent / "configs").rglob("*.yaml"))


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
    if config.parent.name == "molecule":
        (tmp_path / "molecules.smi").write_text("\n".join("C" * n + "O" for n in range(1, 17)) + "\n")
        settings |= {
            "data.init_args.source": tmp_path / "molecules.smi",
            "data.init_args.cache_dir": tmp_path,
        }
    elif "digits" not in config.stem:  # scikit-learn's digits stand in for data that would be downloaded
        settings |= {"data.init_args.source": "digits", "data.init_args.channels": 3}
        settings |= {"data.init_args.image_size": "null", "model.encoder.init_args.width": 8}
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
