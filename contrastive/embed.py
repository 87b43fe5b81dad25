"""``contrastive embed``: the features of a data set, in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from contrastive.data.loading import Split
from contrastive.errors import ContrastiveError
from contrastive.evaluation.protocol import parse_targets
from contrastive.features import FrozenEncoder, load_encoder
from contrastive.items import feature_batches, item_names, num_items, read_items, source_of
from contrastive.report import require_folder, write_whole


def embed(
    run: str,
    *,
    data: str | None = None,
    output: str = "features.npz",
    split: Split = "all",
    targets: str | None = None,
    smiles_column: str | None = None,
    batch_size: int = 512,
    download: bool = False,
    skip_corrupt: bool | None = None,
) -> None:
    """Encode images, graphs, molecules or the nodes of a graph into a file, whole or not at all.

    An .npz file has the arrays ``h`` (N, num_features), ``y`` where there are labels, ``classes``, and
    ``item``, the path of each image file or the SMILES of each molecule. A .parquet file has ``h`` (a list a
    row), ``item``, and a column ``y`` of classes or one a target; it is written batch by batch. An .npy file
    has ``h`` alone, for ``numpy.load(…, mmap_mode="r")``, and is written batch by batch too: sets of files
    that are larger than memory go through. Beside it lies ``NAME.y.npy`` where there are labels.

    Args:
        run: a run folder, a checkpoint or an export.
        data: a source of the kind that the run was trained on (default: what it was trained on).
        output: the file to write: .npz, .parquet (pip install pyarrow) or .npy.
        split: of images, train, test, or all of the source; other sources are encoded whole.
        targets: columns of a table to write as labels: A,B or ["A", "B"].
        smiles_column: of a table of molecules (default: the one named smiles).
        batch_size: items encoded at a time.
        download: whether torchvision may download the data.
        skip_corrupt: leave out files that do not decode, and count them, instead of stopping (default: of the
            run's own data as the run does, of others no).
    """
    file = Path(output)
    if file.suffix not in WRITERS:
        raise ContrastiveError(f"cannot write {file}: its name ends in none of {', '.join(WRITERS)}")
    require_folder(file)
    encoder = load_encoder(run)
    columns: dict[str, Any] = {"targets": parse_targets(targets), "smiles_column": smiles_column}
    options: dict[str, Any] = {"download": download, "skip_corrupt": skip_corrupt}
    dataset = read_items(encoder, source_of(encoder, data), split, **columns, **options)
    number = num_items(dataset)
    if not number:
        raise ContrastiveError(f"{source_of(encoder, data)} holds nothing to encode")
    write = WRITERS[file.suffix]
    write_whole(file, lambda part: write(encoder, dataset, batch_size, part, file))
    print(f"{number} × {encoder.num_features} features: {file}")


def _batches(encoder: FrozenEncoder, dataset: Any, batch_size: int) -> Iterator[np.ndarray]:
    for h in feature_batches(encoder, dataset, batch_size=batch_size, progress="Encoding"):
        yield h.numpy()


def _names(dataset: Any) -> list[str]:
    return list(getattr(dataset, "classes", []))


def _write_npz(encoder: FrozenEncoder, dataset: Any, batch_size: int, part: Path, file: Path) -> None:
    arrays = {"h": np.concatenate([*_batches(encoder, dataset, batch_size)])}
    arrays["classes"] = np.array(_names(dataset))
    if dataset.labels is not None:
        arrays["y"] = dataset.labels.numpy()
    items = item_names(dataset)
    if items is not None:
        arrays["item"] = np.array(items)
    with part.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def _write_npy(encoder: FrozenEncoder, dataset: Any, batch_size: int, part: Path, file: Path) -> None:
    shape = (num_items(dataset), encoder.num_features)
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False}
    with part.open("wb") as stream:  # not a memory map, which a full disk ends with SIGBUS
        np.lib.format.write_array_header_1_0(stream, {**header, "shape": shape})
        for batch in _batches(encoder, dataset, batch_size):
            stream.write(batch.astype(np.float32, copy=False).tobytes())
    if dataset.labels is not None:  # before the features are in their place: who finds them finds both
        labels = dataset.labels.numpy()
        write_whole(file.with_suffix(".y.npy"), lambda beside: _save(beside, labels))


def _save(file: Path, array: np.ndarray) -> None:
    with file.open("wb") as stream:  # numpy.save would add .npy to the name
        np.save(stream, array)


def _write_parquet(encoder: FrozenEncoder, dataset: Any, batch_size: int, part: Path, file: Path) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ContrastiveError(
            ".parquet needs pyarrow: pip install 'contrastive-pretraining[parquet]'"
        ) from error
    items = item_names(dataset)
    texts = {} if items is None else {"item": items}
    labels = {} if dataset.labels is None else _label_columns(dataset)
    if taken := labels.keys() & {"h", "item"}:
        raise ContrastiveError(
            f"a target is called {taken.pop()}, as another column is; rename it, or write .npz"
        )
    writer, start = None, 0
    try:
        for h in _batches(encoder, dataset, batch_size):
            place = slice(start, start + len(h))
            rows = pyarrow.array(np.ascontiguousarray(h).reshape(-1))
            columns = {"h": pyarrow.FixedSizeListArray.from_arrays(rows, h.shape[1])}
            for name, values in (texts | labels).items():
                kind = pyarrow.string() if isinstance(values, list) else None
                columns[name] = pyarrow.array(values[place], type=kind)
            table = pyarrow.table(columns)
            writer = writer or parquet.ParquetWriter(part, table.schema)
            writer.write_table(table)
            start += len(h)
    finally:
        if writer:
            writer.close()


def _label_columns(dataset: Any) -> dict[str, Any]:
    """``y``, the name of each class where there are names, or a column of numbers a target."""
    y, names = dataset.labels.numpy(), _names(dataset)
    if y.ndim == 1:
        return {"y": [names[i] if i >= 0 else None for i in y] if names else y}
    return {names[i] if names else f"y{i}": column for i, column in enumerate(y.T)}


WRITERS: dict[str, Callable[..., None]] = {
    ".npz": _write_npz,
    ".parquet": _write_parquet,
    ".npy": _write_npy,
}
