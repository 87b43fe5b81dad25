import warnings

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from augmentations.colour import Normalize
from augmentations.geometry import RandomResizedCrop
from augmentations.graph import AttributeMask, EdgeDrop, NodeDrop, OneOf
from augmentations.image import Compose, Views, dcl, simclr
from augmentations.subgraph import RandomWalkSubgraph
from contrastive import callbacks
from contrastive.callbacks import NonFiniteGuard
from contrastive.cli import main
from contrastive.data import Batch
from contrastive.errors import ContrastiveError
from contrastive.features import load_encoder
from contrastive.module import ContrastiveModule
from contrastive.pretrain import _refuse_settings
from encoders.graph import GraphEncoder, NodeEncoder
from encoders.graph_batch import GraphBatch
from encoders.image import ResNet


def graphs():
    generator = torch.Generator().manual_seed(0)
    ptr = torch.tensor([0, 9, 10, 30, 41, 60])
    edges = [
        (int(ptr[g]) + u, int(ptr[g]) + v)
        for g, size in enumerate(ptr.diff().tolist())
        for u, v in torch.randint(0, size, (2 * size, 2), generator=generator).tolist()
    ]
    batch = GraphBatch.from_edges(edges, torch.rand(60, 3, generator=generator), ptr=ptr, undirected=True)
    view = OneOf(
        augmentations=[
            NodeDrop(),
            EdgeDrop(undirected=True),
            AttributeMask(),
            RandomWalkSubgraph(restart=0.2),
        ]
    )
    return GraphEncoder(node_features=3, num_hidden=8, num_layers=2), [view], batch


def images():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return ResNet(width=4), [simclr(size=32)], images


def loaded(samples):
    """A loader of a user's own data set."""
    return DataLoader([Batch(sample, 0, i) for i, sample in enumerate(samples)], batch_size=5)


def quick(folder, **settings):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(max_steps=2, default_root_dir=folder, enable_checkpointing=False, **quiet, **settings)


@pytest.mark.parametrize("make", [graphs, images])
@pytest.mark.parametrize("num_inputs", [1, 2])
def test_views_drawn_at_once_are_those_drawn_one_by_one(make, num_inputs):
    encoder, views, samples = make()
    module = ContrastiveModule(encoder, views, seed=3).eval()
    order = torch.tensor([2, 0, 1, 4, 3])
    batch = Batch(samples if num_inputs == 1 else (samples, samples[order]), None, torch.arange(5) * 3)
    assert module._at_once(batch) == (make is graphs)
    h, z = module.project(batch)
    expected = torch.cat([encoder(view) for view in module.augment(batch)])
    torch.testing.assert_close(h, expected)
    assert z.shape == (10, 128) and not torch.allclose(h[:5], h[5:])


class Scaled(torch.nn.Module):
    """A view of a user's own: uint8 to float, whose range is their affair."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, images, random=None):
        return Normalize()(images) * self.by


def test_views_and_what_is_not_augmented_are_normalised_alike():
    cifar = Normalize(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
    bare = Compose([RandomResizedCrop(size=32)])
    for views, preprocess, found in (
        ([dcl()], None, r"mean \[0.4914, 0.4822, 0.4465\] and std"),
        ([simclr(size=32), dcl()], None, "mean .0.4914"),
        ([simclr(size=32)], cifar, "mean .0.485"),
        ([bare], None, "nothing"),
        ([Views([dcl(), dcl()])], None, "mean .0.4914"),
    ):
        with pytest.raises(ValueError, match=f"the views normalise by {found}.*: give the views"):
            ContrastiveModule(ResNet(width=4), views, preprocess=preprocess)
    for views, preprocess in (([dcl()], cifar), ([bare], torch.nn.Identity()), ([Scaled(1)], cifar)):
        ContrastiveModule(ResNet(width=4), views, preprocess=preprocess)


@pytest.mark.parametrize("by, told", [(1.0, False), (0.5, False), (60.0, True), (0.2, True)])
def test_views_of_ones_own_of_another_range_are_told_of_once(by, told):
    encoder, _, samples = images()
    module, batch = ContrastiveModule(encoder, [Scaled(by)]), Batch(samples, None, torch.arange(5))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for place in range(2):
            module.on_train_batch_start(batch, place)
    assert sum("another range" in str(warning.message) for warning in caught) == told


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "16-true"])
def test_images_are_pretrained_on_in_any_precision(precision, tmp_path):
    encoder, views, samples = images()
    module = ContrastiveModule(encoder, views)
    quick(tmp_path, precision=precision).fit(module, loaded(samples))
    assert all(p.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("num_graphs", [1, 5])
def test_nodes_are_pairs_only_where_views_keep_them_all(num_graphs):
    _, _, batch = graphs()
    encoder, batch = NodeEncoder(node_features=3, num_hidden=8), batch[:num_graphs]
    samples = Batch(batch, None, torch.arange(num_graphs))
    for view in (RandomWalkSubgraph(ratio=0.5), NodeDrop(p=0.5)):
        with pytest.raises(
            ValueError, match=f"where the graphs have {2 * batch.num_nodes}, .* remove to false"
        ):
            ContrastiveModule(encoder, [view]).project(samples)
    for view in (RandomWalkSubgraph(ratio=0.5, remove=False), NodeDrop(p=0.5, remove=False), EdgeDrop()):
        assert len(ContrastiveModule(encoder, [view]).project(samples)[1]) == 2 * batch.num_nodes


def test_two_augmentations_make_a_view_each():
    encoder, _, batch = graphs()
    module = ContrastiveModule(encoder, [EdgeDrop(p=0.0), EdgeDrop(p=1.0)]).eval()
    h, _ = module.project(Batch(batch, None, torch.arange(5)))
    bare = batch.edge_subgraph(torch.zeros(batch.num_edges, dtype=torch.bool))
    torch.testing.assert_close(h, torch.cat([encoder(batch), encoder(bare)]))


def test_a_method_with_views_of_its_own_is_asked_for_them():
    class Unchanged(ContrastiveModule):
        def augment(self, batch):
            return [batch.input, batch.input]

    encoder, views, batch = graphs()
    h, _ = Unchanged(encoder, views).eval().project(Batch(batch, None, torch.arange(5)))
    torch.testing.assert_close(h, torch.cat([encoder(batch)] * 2))


def test_a_compiled_graph_encoder_has_the_same_gradients_and_keys():
    """Traced and run by autograd alone: a compiler of C++ need not be there, and takes a minute."""
    encoder, views, samples = graphs()
    module = ContrastiveModule(encoder, views, seed=3)
    batch, keys = Batch(samples, None, torch.arange(5)), list(module.state_dict())
    parameters = list(module.parameters())
    expected = torch.autograd.grad(module.step(batch)["loss"], parameters)
    module.encoder.compile(backend="aot_eager")
    for ours, theirs in zip(torch.autograd.grad(module.step(batch)["loss"], parameters), expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)  # sums in another order
    assert list(module.state_dict()) == keys


def test_a_loss_without_negatives_takes_batches_of_one():
    class Cosine(torch.nn.Module):
        def forward(self, z0, z1):
            return 1 - torch.nn.functional.cosine_similarity(z0, z1).mean()

    encoder, views, batch = graphs()
    one = Batch(batch[torch.tensor([2])], None, torch.tensor([2]))
    ContrastiveModule(encoder, views, loss=Cosine()).step(one)["loss"].backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())
    with pytest.raises(ValueError, match="its other samples, and has none: give a batch_size of 2"):
        ContrastiveModule(encoder, views).step(one)


def test_weights_that_are_not_finite_are_not_called_untouched():
    """As a gradient leaves them that is not finite though the loss is."""
    module, trainer = LightningModule(), Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    module.layer = torch.nn.Linear(2, 1)
    with pytest.raises(ContrastiveError, match="untouched and the last .* --ckpt_path last"):
        NonFiniteGuard().on_before_backward(trainer, module, torch.tensor(torch.nan))
    module.layer.bias.data.fill_(torch.nan)
    with pytest.raises(ContrastiveError, match="layer.bias is not finite either.* --ckpt_path FILE"):
        NonFiniteGuard().on_before_backward(trainer, module, torch.tensor(torch.nan))


def narrow():
    encoder = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    encoder.num_features = 4
    return encoder


@pytest.mark.parametrize(
    "parts,message",
    [
        ({"encoder": torch.nn.Sequential()}, "Sequential has no num_features, the width"),
        ({"views": simclr(size=32)}, "views is a Compose; give a list"),
        ({"projector": torch.nn.Linear(4, 4)}, "projector is a Linear; give what makes one"),
    ],
)
def test_parts_of_another_form_are_named(parts, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveModule(**{"encoder": narrow(), "views": [simclr(size=32)], **parts})


class Half(torch.nn.Module):
    """Preprocessing of one's own."""

    def forward(self, images):
        return images / 2


class Pair(torch.nn.Module):
    """As torchvision's transforms, it gives everything that it is given."""

    def forward(self, *inputs):
        return inputs


def test_samples_and_views_of_another_form_are_named(tmp_path):
    samples = images()[2]
    loader = DataLoader([(sample, 0, i) for i, sample in enumerate(samples)], batch_size=5)
    with pytest.raises(TypeError, match=r"the data gives a list, expected contrastive\.data\.Batch"):
        quick(tmp_path).fit(ContrastiveModule(narrow(), [simclr(size=32)]), loader)
    with pytest.raises(TypeError, match="a view of images gives a tuple, expected a tensor"):
        quick(tmp_path).fit(ContrastiveModule(narrow(), [Pair()]), loaded(samples))


class OfTuples(ContrastiveModule):
    def training_step(self, batch, batch_idx):
        return self.step(Batch(*batch))["loss"]


def test_a_step_of_ones_own_takes_batches_of_its_own(tmp_path):
    module = OfTuples(narrow(), [simclr(size=32)])
    before = module.encoder[0].weight.clone()
    loader = DataLoader([(sample, 0, i) for i, sample in enumerate(images()[2])], batch_size=5)
    quick(tmp_path).fit(module, loader)
    assert not torch.equal(module.encoder[0].weight, before)


@pytest.mark.parametrize("normalised", [True, False])
def test_a_checkpoint_from_python_opens_with_its_own_normalisation(normalised, tmp_path, caplog):
    colours = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    preprocess = Normalize(**colours) if normalised else Half()
    module = ContrastiveModule(narrow(), [Scaled(1.0)], preprocess=preprocess)
    trainer = quick(tmp_path)
    trainer.fit(module, loaded(images()[2]))
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    opened = load_encoder(tmp_path / "own.ckpt", encoder=narrow())
    assert ("does not say how images were normalised" in caplog.text) != normalised
    if normalised:
        samples, module = images()[2], module.eval()
        torch.testing.assert_close(opened(samples), module.encoder(module.preprocess(samples)))
        assert opened.config is None, "it does not say how the encoder is built"


def test_an_empty_sequence_is_preprocessing_and_volumes_have_no_channels_last():
    encoder = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3))
    encoder.num_features = 4
    nothing = torch.nn.Sequential()
    assert ContrastiveModule(encoder, [torch.nn.Identity()], preprocess=nothing).preprocess is nothing


@pytest.mark.parametrize("setting", [{"accumulate_negatives": 0}, {"warmup_epochs": -1}])
def test_settings_by_which_nothing_would_be_trained_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        ContrastiveModule(ResNet(width=4), [torch.nn.Identity()], **setting)


def test_a_method_that_takes_its_steps_by_itself_is_not_told_of_accumulated_negatives():
    trainer = Trainer(accumulate_grad_batches=2, accelerator="cpu", logger=False, barebones=True)
    encoder, views, _ = graphs()
    with pytest.raises(ContrastiveError, match=r"model.accumulate_negatives takes its steps by itself"):
        _refuse_settings(ContrastiveModule(encoder, views, accumulate_negatives=2), trainer)
    own = ContrastiveModule(encoder, views)
    own.automatic_optimization = False
    _refuse_settings(own, trainer)  # Lightning says it


def test_the_last_epoch_is_evaluated_whatever_ends_it_and_the_bank_is_no_larger(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        callbacks, "_encoded", lambda _, data: sizes.append(len(data)) or torch.randn(len(data), 4)
    )
    options = ["--trainer.max_steps", "12", "--knn.every_n_epochs", "50", "--knn.max_bank", "700"]
    options += [
        "--run_dir",
        str(tmp_path / "run"),
        "--wandb",
        "off",
        "--trainer.enable_progress_bar",
        "false",
    ]
    assert main(["pretrain", "--config", "configs/image/simclr_digits.yaml", *options]) == 0
    assert sizes[::2] == [700, 700]  # before the first step and at the end, amid an epoch
