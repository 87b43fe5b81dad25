"""The shape that images are read in, and whether a model takes it, known before any is decoded."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from augmentations.colour import Normalize
from contrastive.errors import ContrastiveError
from contrastive.features import first_channels


def check_shape(image_size: int | None, channels: int | None) -> None:
    """Check what images are asked to be read as; None is the source's own.

    Raises:
        ValueError: no pixels, or neither grey nor colour.
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size is {image_size}; give 1 pixel or more")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels is {channels}; images are read with 1, grey, or 3, colour")


def refuse_other_channels(parts: Iterable[tuple[str, nn.Module]], channels: int, source: str) -> None:
    """Check that the parts of a model take images of ``channels``.

    What is the user's own is passed over, for it may convert the images itself.

    Args:
        parts: of the model, by their names: its encoder, its views, its preprocessing.
        channels: of the images.
        source: of the images, for the message.

    Raises:
        ContrastiveError: a part takes another number; the message says what to set.
    """
    taken: dict[int, list[str]] = {}
    for name, part in parts:
        for number in _channels_taken(part):
            taken.setdefault(number, []).append(name)
    if not taken.keys() - {channels}:
        return
    said = " and ".join(f"{number} ({', '.join(dict.fromkeys(names))})" for number, names in taken.items())
    convert = f"pass --data.init_args.channels {min(taken)} to convert them, or " if len(taken) == 1 else ""
    raise ContrastiveError(
        f"the images of {source} are read with {channels} channel(s), but the model takes {said}: {convert}"
        f"set in_channels of the encoder, and mean and std of the views and of preprocess, for {channels}"
    )


def _channels_taken(part: nn.Module) -> Iterable[int]:
    """Channels of an encoder's first convolution, or of each Normalize in a recipe."""
    if _package(part) == "encoders":
        return filter(None, [first_channels(part)])
    if not {_package(module) for module in part.modules()} <= {"augmentations", "torch"}:
        return []
    return (len(module.mean) for module in part.modules() if isinstance(module, Normalize))


def _package(module: nn.Module) -> str:
    return type(module).__module__.partition(".")[0]
