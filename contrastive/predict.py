"""``contrastive predict``: what a saved probe says of a data set, in a table."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from contrastive.data.loading import Split
from contrastive.errors import ContrastiveError
from contrastive.items import feature_batches, item_names, num_items, read_items
from contrastive.predictor import Predictor, load_predictor
from contrastive.report import require_folder, write_whole


def predict(
    predictor: str,
    *,
    data: str,
    output: str = "predictions.csv",
    split: Split = "all",
    smiles_column: str | None = None,
    batch_size: int = 512,
    download: bool = False,
    skip_corrupt: bool | None = None,
) -> None:
    """Write what a probe that was saved predicts of every item, whole or not at all.

    The table has a row an item: ``item``, the path of an image file, the SMILES of a molecule, or else its
    number from 0 in what ``split`` names; of classes ``predicted`` and a probability ``p_NAME`` for each; of
    labels ``p_NAME``, the probability of 1; of values ``NAME``. Labels of the data are not used. Molecules
    that RDKit does not read are left out and listed in a report.

    Args:
        predictor: the folder that `contrastive probe RUN --save FOLDER` made, or hf://OWNER/NAME.
        data: a source of the kind that the encoder was trained on.
        output: the file to write, comma-separated.
        split: of images, train, test, or all of the source; other sources are predicted whole.
        smiles_column: of a table of molecules (default: the one named smiles).
        batch_size: items at a time.
        download: whether torchvision may download the data.
        skip_corrupt: leave out files that do not decode, and count them, instead of stopping (default: of the
            run's own data as the run does, of others no).
    """
    file = Path(output)
    if file.suffix != ".csv":
        raise ContrastiveError(f"cannot write {file}: its name does not end in .csv")
    require_folder(file)
    opened = load_predictor(predictor)
    options: dict[str, Any] = {"download": download, "skip_corrupt": skip_corrupt}
    dataset = read_items(opened, data, split, smiles_column=smiles_column, **options)
    number = num_items(dataset)
    if not number:
        raise ContrastiveError(f"{data} holds nothing to predict")

    def write(part: Path) -> None:
        with part.open("w", newline="") as stream:
            csv.writer(stream).writerows(_rows(opened, dataset, batch_size))

    write_whole(file, write)
    print(f"{number} predictions: {file}")


def _rows(predictor: Predictor, dataset: Any, batch_size: int) -> Iterator[list[Any]]:
    """The header and a row an item."""
    classes, values = predictor.kind == "classes", predictor.kind == "values"
    columns = [name if values else f"p_{name}" for name in predictor.names]
    yield ["item", *["predicted"] * classes, *columns]
    names = item_names(dataset) or range(num_items(dataset))
    start = 0
    for batch in feature_batches(predictor, dataset, batch_size=batch_size, progress="Predicting"):
        for name, row in zip(names[start : start + len(batch)], batch.numpy()):
            if np.isnan(row).any():
                raise ContrastiveError(f"the encoder gives NaN for {name}; look at it, or leave it out")
            best = [predictor.names[int(np.argmax(row))]] if classes else []
            yield [name, *best, *(f"{value:.6g}" for value in row)]
        start += len(batch)
