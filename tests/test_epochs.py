"""Whatever is read, and by however many workers: an epoch from its k-th batch on is the rest of the epoch."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, SequentialSampler

from contrastive.data.epochs import EpochLoader
from contrastive.data.image_crops import Crop
from contrastive.data.image_streams import ImageStream
from contrastive.data.images import ImageData
from contrastive.data.nodes import NodePasses, Passes
from encoders.graph_batch import GraphBatch


def at(epoch, done):
    """A trainer of one process that stands so many batches into an epoch."""
    progress = SimpleNamespace(current=SimpleNamespace(ready=done))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    return SimpleNamespace(
        fit_loop=loop, current_epoch=epoch, world_size=1, global_rank=0, lightning_module=torch.nn.Module()
    )


def shards(folder):
    for shard in range(4):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for i in range(9):
                content = io.BytesIO()
                Image.new("RGB", (4, 4), (shard, i, 0)).save(content, "png")
                info = tarfile.TarInfo(f"{shard}{i}.png")
                info.size = len(content.getvalue())
                tar.addfile(info, io.BytesIO(content.getvalue()))
    return f"{folder}/*.tar"


def streamed(trainer, workers, folder):
    pytest.importorskip("webdataset")
    source = f"{folder}/*.tar" if (folder / "0.tar").exists() else shards(folder)
    data = ImageStream(
        source, image_size=4, epoch_size=36, batch_size=5, shuffle_buffer=6, num_workers=workers, seed=3
    )
    data.trainer = trainer
    data.setup()
    return data.train_dataloader()


def images(trainer, workers, folder, crop=None):
    data = ImageData("digits", batch_size=150, num_workers=workers, crop=crop, seed=3)
    data.trainer = trainer
    data.setup()
    return data.train_dataloader()


def crops(trainer, workers, folder):
    return images(trainer, workers, folder, Crop(6))


def nodes(trainer, workers, folder):
    edges = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 0]])
    graph = GraphBatch.from_edges(edges, torch.randn(6, 2, generator=torch.Generator().manual_seed(0)))
    passes = NodePasses(graph, num_targets=2, fanouts=None, seed=3)
    return EpochLoader(passes, trainer, batch_size=1, sampler=Passes(7), num_workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("source", [images, crops, streamed, nodes])
def test_from_the_kth_batch_on(source, workers, tmp_path):
    def batches(done):
        loader = source(at(2, done), workers, tmp_path)
        getattr(loader.sampler, "set_epoch", lambda epoch: None)(2)
        return [(batch.index.tolist(), _content(batch.input)) for batch in loader]

    whole = batches(0)
    assert len(whole) == 7
    for done in (1, 2, 3, 6):
        assert batches(done) == whole[done:]


def test_processes_share_an_epoch_without_repeats():
    read = []
    for rank in (0, 1):
        loader = images(SimpleNamespace(**vars(at(2, 0)) | {"world_size": 2, "global_rank": rank}), 0, None)
        loader.sampler.set_epoch(2)
        read.append(torch.cat([batch.index for batch in loader]).tolist())
    assert len(read[0]) == len(read[1]) == 450  # three batches of 150 on each
    assert len({*read[0], *read[1]}) == 900


class Drawing(Dataset):
    """A data set of a user's own, which draws where it is read."""

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return torch.rand(()).item(), np.random.rand()


def test_workers_of_other_processes_draw_other_numbers():
    def drawn(epoch, rank):
        trainer = SimpleNamespace(**vars(at(epoch, 0)) | {"world_size": 2, "global_rank": rank})
        return [
            number
            for item in EpochLoader(Drawing(), trainer, num_workers=2, batch_size=None)
            for number in item
        ]

    first = drawn(2, 0)
    torch.rand(3)  # what was drawn before does not matter
    assert drawn(2, 0) == first
    assert not {*first} & {*drawn(2, 1)} and not {*first} & {*drawn(3, 0)}


def _content(input):
    if isinstance(input, GraphBatch):
        return input.target.tolist()
    return [view.tolist() for view in (input if isinstance(input, tuple) else (input,))]


def test_a_process_exits_while_workers_wait_for_the_rest_of_an_epoch():
    """An iterator that is still held, as by the traceback of an error; their first SIGTERM they pass over."""
    code = (
        "from test_epochs import at, images\n"
        "batches = iter(images(at(0, 0), 2, None))\n"
        "print(next(batches).index.tolist())\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=Path(__file__).parent, timeout=100, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout, done.stderr
    assert not done.stderr, done.stderr


def test_another_order_than_ours_is_passed_over_too():
    """As ``trainer.overfit_batches`` sets one, and a loader of one's own may."""
    graph = GraphBatch.from_edges(torch.tensor([[0, 1]]), torch.zeros(2, 1))
    passes = NodePasses(graph, num_targets=None, fanouts=None, seed=3)
    loader = EpochLoader(passes, at(2, 3), batch_size=1, sampler=SequentialSampler(range(7)))
    assert [int(batch.index) for batch in loader] == [3, 4, 5, 6]
