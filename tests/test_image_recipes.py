"""The papers' recipes: what a view depends on, and what it does not."""

import pytest
import torch
from pictures import IMAGES, N, pictures

from augmentations import image
from augmentations.colour import ColorJitter, RandomGrayscale
from augmentations.geometry import RandomAffine
from augmentations.random import SampleRandom

RECIPES = {
    "simclr": image.simclr(size=32, strength=1.0, blur=0.5),
    "simclr exact": image.simclr(size=32, blur=0.5, exact=True),
    "moco_v2": image.moco_v2(size=32),
    "byol 1": image.byol(view=1, size=32),
    "byol 2": image.byol(view=2, size=32),
    "dcl": image.dcl(),
    "weak": image.weak(size=32),
    "medical": image.medical(size=32),
    "geometric": image.geometric(noise=0.1, cutout=8),
}


def images_for(name, n=N):
    return pictures(n, channels=1 if name in ("medical", "geometric") else 3, height=32, width=32)


@pytest.mark.parametrize("name", RECIPES)
def test_a_sample_gets_the_same_view_in_any_batch(name):
    recipe, images, index = RECIPES[name], images_for(name), torch.arange(N)
    whole = recipe(images, SampleRandom(index, seed=7, view=1))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    shuffled = recipe(images[order], SampleRandom(index[order], seed=7, view=1))
    torch.testing.assert_close(shuffled, whole[order], atol=1e-6, rtol=1e-6)
    for k in (0, N - 1):
        alone = recipe(images[k : k + 1], SampleRandom(index[k : k + 1], seed=7, view=1))
        torch.testing.assert_close(alone[0], whole[k], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_a_large_batch_goes_through_in_parts_and_gives_the_same_views(name, monkeypatch):
    recipe, images, index = RECIPES[name], images_for(name), torch.arange(N)
    whole = recipe(images, SampleRandom(index))
    monkeypatch.setattr(image, "_PART", images[:5].numel() // torch.get_num_threads())
    torch.testing.assert_close(recipe(images, SampleRandom(index)), whole, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_views_do_not_depend_on_the_number_of_threads(name):
    recipe, images = RECIPES[name], images_for(name, 400)
    threads = torch.get_num_threads()
    try:
        views = []
        for count in (1, 2):
            torch.set_num_threads(count)
            views.append(recipe(images, SampleRandom(torch.arange(400))))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*views, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_views_are_those_of_float32_in_mixed_precision(name):
    recipe, images = RECIPES[name], images_for(name)
    expected = recipe(images, SampleRandom(torch.arange(N)))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(recipe(images, SampleRandom(torch.arange(N))), expected)


@pytest.fixture(params=[torch.float64, torch.bfloat16], ids=str)
def default_dtype(request):
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", RECIPES)
def test_views_do_not_depend_on_the_default_dtype(name, default_dtype):
    images, index = images_for(name), torch.arange(N)
    views = RECIPES[name](images, SampleRandom(index))
    torch.set_default_dtype(torch.float32)
    assert torch.equal(views, RECIPES[name](images, SampleRandom(index)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_recipe_gives_the_dtype_that_the_module_was_made(dtype):
    images, index = images_for("simclr"), torch.arange(N)
    views = image.simclr(size=32).to(dtype)(images, SampleRandom(index))
    expected = image.simclr(size=32)(images, SampleRandom(index))
    assert views.dtype == dtype
    torch.testing.assert_close(views.float(), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    "augmentation",
    [
        ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grayscale=0.2),
        ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, exact=True),
        RandomGrayscale(p=0.5),
        RandomAffine(degrees=20, translate=(0.2, 0.2), shear=10),
    ],
    ids=lambda augmentation: type(augmentation).__name__,
)
def test_an_operation_alone_is_that_of_float32_in_mixed_precision(augmentation):
    images, index = pictures(N), torch.arange(N)
    expected = augmentation(images, SampleRandom(index))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augmentation(images, SampleRandom(index)), expected)


@pytest.mark.parametrize("name", RECIPES)
def test_a_second_call_gives_another_view_and_a_seed_the_same(name):
    recipe, images = RECIPES[name], images_for(name)
    before = images.clone()
    torch.manual_seed(0)
    first, second = recipe(images), recipe(images)
    torch.manual_seed(0)
    assert torch.equal(first, recipe(images)) and not torch.equal(first, second)
    assert first.dtype == torch.float32 and first.shape == images.shape and first.isfinite().all()
    assert torch.equal(images, before), "the batch that was given is left as it is"


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float_images_give_the_view_of_uint8_images(name, dtype):
    recipe, images = RECIPES[name], images_for(name)
    from_bytes, from_floats = (
        recipe(batch, SampleRandom(torch.arange(N))) for batch in (images, images.to(dtype) / 255)
    )
    different = (from_bytes - from_floats).abs() > 1e-4
    assert different.float().mean() < 1e-3, "only a pixel at the threshold of solarize may differ"


def test_normalised_views_have_the_statistics_of_the_images():
    images = pictures(500)
    mean, std = (images / 255).mean((0, 2, 3)), (images / 255).std((0, 2, 3))
    view = image.weak(size=32, mean=mean.tolist(), std=std.tolist())(images, SampleRandom(torch.arange(500)))
    assert view.mean().abs() < 0.1 and 0.8 < view.std() < 1.1


def test_multi_crop_gives_views_of_two_sizes():
    views = image.multi_crop(size=32, small_size=16)(IMAGES)
    assert [view.shape[-1] for view in views] == [32] * 2 + [16] * 6
    assert not torch.equal(views[0], views[1])


def test_small_gray_images():
    view = image.geometric()(torch.rand(5, 1, 8, 8))
    assert view.shape == (5, 1, 8, 8) and view.isfinite().all()


def test_simclr_on_one_channel():
    view = image.simclr(size=16, mean=[0.5], std=[0.5])(IMAGES[:, :1])
    assert view.shape == (N, 1, 16, 16)


def test_recipes_are_built_from_a_configuration():
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--views", type=list[torch.nn.Module])
    pair = [{"class_path": "augmentations.image.byol", "init_args": {"view": k, "size": 16}} for k in (1, 2)]
    own = {
        "class_path": "augmentations.image.Compose",
        "init_args": {
            "augmentations": [{"class_path": "augmentations.geometry.Cutout", "init_args": {"size": 4}}]
        },
    }
    views = parser.instantiate_classes(parser.parse_object({"views": [*pair, own]})).views
    assert [view(IMAGES).shape[-1] for view in views] == [16, 16, 52]
