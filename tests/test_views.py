import numpy as np
import pytest
import torch
from PIL import Image

from augmentations.colour import Normalize
from augmentations.image import byol, simclr
from contrastive.cli import main
from contrastive.views import denormalised, draw_sheet

DIGITS = "configs/image/simclr_digits.yaml"


def test_the_sheet_shows_the_originals_pixel_for_pixel():
    images = torch.randint(0, 256, (3, 3, 96, 96), dtype=torch.uint8)
    sheet = np.asarray(draw_sheet(images, [simclr(size=96)], seed=0, num_views=2))
    for row, image in enumerate(images):
        top = 16 + row * 100
        np.testing.assert_array_equal(sheet[top : top + 96, 4:100], image.permute(1, 2, 0))


def test_normalisation_is_undone():
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    augmentation = Normalize(mean=[0.1, 0.5, 0.9], std=[0.2, 0.3, 0.4])
    torch.testing.assert_close(denormalised(augmentation(images), augmentation), images.float() / 255)


def test_asymmetric_views_take_turns():
    images = torch.full((1, 3, 96, 96), 100, dtype=torch.uint8)
    black, white = Normalize(mean=[1.0] * 3, std=[1.0] * 3), torch.nn.Sequential(torch.nn.Identity())
    black.forward = lambda images, random: torch.full(images.shape, -1.0)
    white[0].forward = white.forward = lambda images, random: torch.ones(images.shape)
    sheet = np.asarray(draw_sheet(images, [black, white], seed=0, num_views=4))
    assert [int(sheet[60, 4 + column * 100 + 50].mean()) for column in range(5)] == [100, 0, 255, 0, 255]
    assert (
        draw_sheet(images, [byol(view=1, size=32), byol(view=2, size=32)], seed=0, num_views=1).width == 204
    )


def test_command_draws_a_folder_and_decodes_only_what_it_shows(command, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{i:02}.png")
    (tmp_path / "pets" / "a" / "05.png").write_bytes(b"damaged, and not shown")
    config, output = "configs/image/simclr_cifar10.yaml", tmp_path / "new" / "sheet.png"
    source = f"--data.init_args.source={tmp_path / 'pets'}"
    done = command("views", "--config", config, source, "--num", 2, "--output", output)
    assert done.returncode == 0, done.stderr
    assert f"views: {output}" in done.stdout
    with Image.open(output) as sheet:
        assert sheet.size == (5 * 100 + 4, 16 + 2 * 100)
    assert [path.name for path in output.parent.iterdir()] == ["sheet.png"]


def test_command_draws_grey_images(tmp_path):
    assert main(["views", "--config", DIGITS, "--num-views", "3", "--output", str(tmp_path / "v.png")]) == 0
    with Image.open(tmp_path / "v.png") as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (16 + 8 * 100, 4 * 100 + 4, 3) and (pixels.min(-1) == pixels.max(-1)).all()


@pytest.mark.parametrize(
    "options,message",
    [
        (["--num", "0"], "at least 1"),
        (["--output", "/proc/v.png"], "cannot write /proc/v.png"),
        (
            ["--data", "contrastive.data.graphs.GraphData", "--data.source", "MUTAG.zip"],
            "draws images, and contrastive.data.graphs.GraphData gives none",
        ),
    ],
)
def test_command_says_what_is_wrong(options, message, capsys):
    assert main(["views", "--config", DIGITS, *options]) == 1
    assert message in capsys.readouterr().err


def test_images_of_other_channels_are_refused(tmp_path, capsys):
    options = ["--config", DIGITS, "--data.init_args.channels", "3", "--output", str(tmp_path / "v.png")]
    assert main(["views", *options]) == 1
    assert "pass --data.init_args.channels 1 to convert them" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
