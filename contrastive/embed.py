"""``contrastive embed``: the features of a data set, in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from contrastive.data.images import read_images
from contrastive.data.loading import Split
from contrastive.errors import ContrastiveError
from contrastive.features import encode, load_encoder


def embed(
    run: str,
    *,
    data: str,
    out: str = "features.npz",
    split: Split = "train",
    batch_size: int = 512,
    download: bool = False,
    skip_corrupt: bool = False,
) -> None:
    """Encode a data set into an .npz file: ``h`` (N, num_features), ``y`` (N,) where labelled, ``classes``.

    Args:
        run: a run folder, a checkpoint or an export.
        data: a folder, a .csv or .npz file, a torchvision data set, ``hf:NAME`` or ``digits``.
        out: the file to write.
        split: which split of the data.
        batch_size: images encoded at a time.
        download: whether torchvision may download the data.
        skip_corrupt: leave out files that do not decode, and count them, instead of stopping.
    """
    file = Path(out)
    if not file.parent.is_dir():
        raise ContrastiveError(f"cannot write {file}: there is no folder {file.parent}")
    encoder = load_encoder(run)
    shape = {key: encoder.data.get(key) for key in ("image_size", "channels")}
    dataset = read_images(data, split, **shape, download=download, skip_corrupt=skip_corrupt)
    h = encode(encoder, dataset, batch_size=batch_size, progress="Encoding")
    arrays = {"h": h.numpy(), "classes": np.array(dataset.classes)}
    if dataset.labels is not None:
        arrays["y"] = dataset.labels.numpy()
    part = file.with_name(file.name + ".part")
    try:
        with part.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        part.replace(file)
    except OSError as error:
        raise ContrastiveError(f"cannot write {file}: {error.strerror}") from error
    print(f"{len(h)} × {h.shape[1]} features: {file}")
