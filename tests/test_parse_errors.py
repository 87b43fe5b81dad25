"""What is mistyped on a command line or in a configuration, and the one line that is said of it."""

import importlib
import inspect
import pkgutil
import re
import sys

import pytest
import yaml
from pytorch_lightning import LightningDataModule, LightningModule

from contrastive import cli, data, methods
from contrastive.parse_errors import in_a_line, null_setting

INFO_NCE = "contrastive.losses.InfoNCE"
SAID = {
    f"--model.loss {INFO_NCE}E": f"model.loss: there is no {INFO_NCE}E; the nearest: {INFO_NCE}, ",
    "--model.loss InfoNCEE": f"model.loss: InfoNCEE is no class by itself: give its path, as {INFO_NCE}",
    f"--model.loss {INFO_NCE} --model.loss.temprature 1": f"{INFO_NCE} has no option temprature; the "
    f"nearest: temperature (--model.loss.help {INFO_NCE} tells of them)",
    "--model.encoder encoders.imag.ResNet": "model.encoder: there is no encoders.imag; the nearest: "
    "encoders.image",
    "--model.encoder mine.Encoder": "model.encoder: there is no module mine; a module of your own is found "
    "on PYTHONPATH",
    f"--data {INFO_NCE}": f"data: {INFO_NCE} is no LightningDataModule",
    "--model.encoder.num_features wide": "model.encoder.num_features: expected a whole number, but was given "
    "wide",
    "--model.optimizer.lr fast": "model.optimizer.lr: expected a number, but was given fast",
    "--trainer.callbacks EarlyStopping": "EarlyStopping needs monitor",
    "--trainer.precision 17-bit": "trainer.precision: expected a whole number, transformer-engine, ",
    "--seed_everything -1": "seed_everything is -1; give a number from 0 to 4294967295",
    "--seed_everything true": "seed_everything: expected a whole number, but was given True",
    "--ran_dir x": "there is no option ran_dir; the nearest: run_dir",
    "--trainer.help": "there is no option trainer.help; the nearest: trainer.logger, trainer.min_steps, "
    "trainer.max_steps",
    "--model.los.temperature 1": "there is no option model.los.temperature",
    "--trainer.default_root_dir x": "trainer.default_root_dir has no effect: the run's folder is run_dir",
}


@pytest.mark.parametrize("args", SAID)
def test_what_is_mistyped_is_said_in_a_line(args, capsys):
    config = ["--config", "configs/image/simclr_digits.yaml", "--wandb", "off"]
    assert cli.main(["pretrain", *config, *args.split()]) == 2
    said, hint = capsys.readouterr().err.splitlines()
    assert said.startswith("contrastive pretrain: error: ") and SAID[args] in said
    assert hint == "(contrastive pretrain --help lists the options)"


@pytest.mark.parametrize(
    "config, expected",
    [
        (
            {"views": [{"class_path": "augmentations.image.simclrr", "init_args": {"size": 8}}]},
            "model.views: there is no augmentations.image.simclrr; the nearest: augmentations.image.simclr",
        ),
        (
            {"views": [{"class_path": "augmentations.image.simclr", "init_args": {"sise": 8}}]},
            "augmentations.image.simclr has no option sise; the nearest: size",
        ),
        (
            {"optimizer": {"class_path": "torch.optim.Adamm", "init_args": {"lr": 0.1}}},
            "model.optimizer: there is no torch.optim.Adamm; the nearest: torch.optim.Adam, ",
        ),
        ({"lose": {"class_path": INFO_NCE}}, "ContrastiveModule has no option lose; the nearest: loss"),
    ],
)
def test_so_is_what_a_file_has(config, expected, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"model": config}))
    args = ["--config", "configs/image/simclr_digits.yaml", "--config", str(tmp_path / "mine.yaml")]
    assert cli.main(["pretrain", *args]) == 2
    said = capsys.readouterr().err.splitlines()[0]
    assert expected in said


@pytest.mark.parametrize("key", ["model.seed", "data.init_args.seed"])
def test_a_seed_beside_the_run_s_is_refused(key, tmp_path, capsys):
    settings = 5
    for part in reversed(key.split(".")):
        settings = {part: settings}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    config = ["--config", "configs/image/simclr_digits.yaml"]
    for args in ([f"--{key}", "5"], [f"--{key}=5"], ["--config", str(tmp_path / "mine.yaml")]):
        assert cli.main(["pretrain", *config, *args]) == 1
        (said,) = capsys.readouterr().err.splitlines()
        assert key in said and "has no effect: all draws follow from seed_everything" in said


def test_a_file_that_is_no_yaml_is_named(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("model:\n  loss: {class_path\n")
    assert cli.main(["pretrain", "--config", str(file)]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert f"{file} is no YAML: while parsing a flow mapping" in said and "line 2" in said


@pytest.mark.parametrize(
    "args, said",
    [
        ("probe r --methd knn", "there is no option methd; the nearest: method"),
        ("probe r --k many", "k: expected a whole number, but was given many"),
        ("embed r --split val", "split: expected train, test or all, but was given val"),
    ],
)
def test_and_of_the_other_commands(args, said, capsys):
    assert cli.main(args.split()) == 2
    assert capsys.readouterr().err.splitlines()[0] == f"contrastive {args.split()[0]}: error: {said}"


@pytest.mark.parametrize(
    "args, where",
    [
        ("--model.views.scale null", ("views", 0, "init_args", "scale")),
        ("--model.views.init_args.scale null", ("views", 0, "init_args", "scale")),
        ("--model.loss null", ("loss",)),
        (
            "--model.encoder encoders.pretrained.TorchvisionEncoder --model.encoder.name vgg11 "
            "--model.encoder.weights null",
            ("encoder", "init_args", "weights"),
        ),
        (
            "--model.encoder encoders.graph.GraphEncoder --model.encoder.node_features 5 "
            "--model.encoder.layer_args {num_bases:\tnull}",
            ("encoder", "init_args", "layer_args", "num_bases"),
        ),
    ],
)
def test_null_is_null_however_deep_it_stands(args, where, capsys):
    config = ["--config", "configs/image/simclr_cifar10.yaml", "--print_config"]
    with pytest.raises(SystemExit):
        cli.main(["pretrain", *config, *args.split(" ")])
    value = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    for key in where:
        value = value[key]
    assert value is None


@pytest.mark.parametrize("text, kept", [("None", None), ("'None'", None), ("./None", "./None")])
def test_no_text_is_none_and_a_file_of_that_name_is_said_by_its_folder(text, kept, capsys):
    config = ["--config", "configs/molecule/graphcl_zinc.yaml", "--print_config"]
    with pytest.raises(SystemExit):
        cli.main(["pretrain", *config, "--data.cache_dir", text])
    assert yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["cache_dir"] == kept


@pytest.mark.parametrize("option", ["--model.views.help {}", "--model.init_args.views.help={}"])
def test_a_function_has_a_page_of_help_too(option, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["pretrain", *option.format("augmentations.image.simclr").split()])
    assert not ended.value.code
    page = capsys.readouterr().out
    assert "views augmentations.image.simclr\n" in page and "views.strength STRENGTH" in page
    assert cli.main(["pretrain", *option.format("augmentations.image.simclrr").split()]) == 2
    assert "the nearest: augmentations.image.simclr" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option, path, told",
    [
        ("model", "contrastive.module.ContrastiveModule", "--model.encoder ENCODER"),
        ("model.encoder", "encoders.graph.NodeEncoder", "the width of float ``x``"),
        ("data", "contrastive.data.links.LinkData", "--data.evidence {none,ends,all}"),
    ],
)
def test_the_page_of_a_class_fits_in_the_head(option, path, told, capsys):
    """jsonargparse's own has every module of torch that is imported, for each setting that takes one."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["pretrain", f"--{option}.help", path])
    page = capsys.readouterr().out
    assert not ended.value.code and told in page
    assert "torch.nn.Linear" not in page and len(page.splitlines()) < 100
    assert cli.main(["pretrain", "--model.help", "torch.nn.Linear"]) == 2  # it is no LightningModule


@pytest.mark.parametrize("key, base", [("model", LightningModule), ("data", LightningDataModule)])
def test_what_a_model_and_data_may_be_is_listed(key, base, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["pretrain", f"--{key}.help", "--wandb", "off"])
    assert not ended.value.code
    listed = re.findall(r"^  ([\w.]+)\n      \S", capsys.readouterr().out, re.MULTILINE)
    ours = {
        f"{path}.{name}"
        for package in (methods, data)
        for path in [m.name for m in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")]
        for name, value in vars(importlib.import_module(path)).items()
        if inspect.isclass(value) and issubclass(value, base) and value.__module__ == path and name[0] != "_"
    } - {"contrastive.data.loading.PretrainingData"}
    assert ours <= {*listed} and all(issubclass(pkgutil.resolve_name(path), base) for path in listed)


def test_help_of_another_key_needs_a_class(capsys):
    assert cli.main(["pretrain", "--model.encoder.help"]) == 1
    assert "give its path, --model.encoder.help PATH" in capsys.readouterr().err


def test_a_class_that_refuses_to_be_built_is_quoted():
    """Where a value may be of several types, and jsonargparse lists why it is of none of them."""
    text = (
        "Does not validate against any of the Union subtypes\n"
        "Subtypes: [<class 'Logger'>, <class 'bool'>, <class 'NoneType'>]\nErrors:\n"
        "  - Problem with given class_path 'loggers.Board':\n"
        "      tensorboard is not there.\n      Install it\n"
        "  - Expected a <class 'bool'>\n  - Expected a <class 'NoneType'>\n"
        "Given value type: <class 'Namespace'>\nGiven value: Namespace(class_path='loggers.Board')"
    )
    assert in_a_line(text) == "loggers.Board: tensorboard is not there."


def test_the_beginning_of_an_option_is_enough(recwarn, capsys):
    assert cli.main(["embed", "nowhere", "--dat", "digits"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "there is no nowhere" in said and not recwarn.list


def test_nothing_is_imported_and_what_is_not_known_is_kept():
    before = set(sys.modules)
    assert "no module antigravity" in in_a_line("No module named 'antigravity'")
    assert in_a_line("module 'antigravity' has no attribute 'fly'") == "there is no antigravity.fly"
    assert set(sys.modules) == before
    assert in_a_line("Subtypes: [a]\nErrors:\n  - two lines\n    of a class's own") == (
        "two lines\nof a class's own"
    )


def test_an_option_before_its_class_is_told_to_come_after(capsys):
    assert cli.main(["pretrain", "--model.encoder", "encoders.image.ResNet", "--data.source", "digits"]) == 2
    assert "data has no class yet, so no option source: give --data CLASS" in capsys.readouterr().err


class Named:
    """As much code has it: null is the default, though the type does not say so."""

    def __init__(self, name: str = None, size: int = 1):  # noqa: RUF013
        pass


def test_null_is_let_through_where_it_is_the_default():
    config = {"model": {"class_path": f"{__name__}.Named", "init_args": {"name": None, "size": 2}}}
    assert null_setting(config) is None
    config["model"]["init_args"]["size"] = None
    assert null_setting(config) == "model.size: expected a whole number, but was given null"
