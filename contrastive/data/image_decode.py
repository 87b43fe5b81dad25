"""One encoded image decoded: every source comes here, so that each fault has one message."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLESPERPIXEL,
)
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from contrastive.errors import ContrastiveError

log = logging.getLogger("contrastive")

# Decoders that Pillow has for data alone: its one for PostScript runs Ghostscript, whatever a file is called.
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000")
_TURNS = {  # what undoes each orientation of EXIF; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(image: Path | bytes | bytearray | memoryview | Image.Image, channels: int, name: object) -> Tensor:
    """Decode an image to uint8 ``(channels, H, W)``, of several frames the first.

    It is turned upright where its EXIF says how the camera was held. 16 bits a pixel are scaled to 8, all of
    0 … 65,535 to 0 … 255; CMYK, palettes and transparency become colour or grey as Pillow converts them.

    Args:
        image: a file, what one holds, or a picture of Pillow's.
        channels: 1 or 3.
        name: of the image, for messages.

    Raises:
        ContrastiveError: no such file, none of ``FORMATS``, damaged, too large, 32 bits a pixel.
    """
    try:
        if isinstance(image, Image.Image):
            return to_tensor(image, channels)
        with Image.open(_stream(image), formats=FORMATS) as picture:
            if picture.format != "MPO" and getattr(picture, "is_animated", False):
                _say_first_frame(name)
            _refuse_wide_planes(picture)
            stored, bands = _tag(picture, SAMPLESPERPIXEL), len(picture.getbands())
            if stored is not None and stored > bands:
                _say_first_channels(name, stored, bands)
            return to_tensor(picture, channels)
    except Exception as error:  # a decoder can fail in any way on damaged bytes
        raise ContrastiveError(f"{name} is not a readable image ({_reason(error, image)})") from error


def image_size(file: Path) -> tuple[int, int]:
    """Width and height of an image in pixels, by its header.

    Raises:
        ContrastiveError: as `decode`.
    """
    try:
        with Image.open(file, formats=FORMATS) as picture:
            return picture.size
    except Exception as error:
        raise ContrastiveError(f"{file} is not a readable image ({_reason(error, file)})") from error


def to_tensor(image: Image.Image, channels: int) -> Tensor:
    """A PIL image as uint8 ``(channels, H, W)``, upright, converted to grey or colour.

    Raises:
        ValueError: 32-bit integers or floats, which have no range that is 0 … 255.
    """
    turn = _turn(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        # convert() would take everything above 255 for white
        pixels = np.asarray(image)
        if _tag(image, PHOTOMETRIC_INTERPRETATION) == 0:  # white is 0, as in some X-rays
            pixels = 65535 - pixels
        image = Image.fromarray((pixels / 257).round().astype(np.uint8))
    elif image.mode in ("I", "F"):
        kind = "integers" if image.mode == "I" else "floats"
        raise ValueError(f"its pixels are 32-bit {kind} of no known range; save them with 8 or 16 bits")
    image = image.convert("RGB" if channels == 3 else "L")
    return TF.pil_to_tensor(image if turn is None else image.transpose(turn))


def _refuse_wide_planes(image: Image.Image) -> None:
    """Raise ValueError for a TIFF that Pillow reads as noise: it takes its planes for some of 8 bits."""
    tile: Any = getattr(image, "tile", None)
    wide = max(_tag(image, BITSPERSAMPLE) or (8,)) > 8
    if wide and _tag(image, PLANAR_CONFIGURATION) == 2 and tile[0][0] == "raw":
        raise ValueError(
            "its channels of 16 bits lie one after the other, which is not read; save it with each pixel's "
            "together, or compressed"
        )


def _tag(image: Image.Image, number: int) -> Any:
    """A tag of a TIFF; None where it has none, and of all other images."""
    return getattr(image, "tag_v2", {}).get(number)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What turns an image upright; None where it is, or where its EXIF is damaged."""
    image.load()  # which turns a TIFF
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the pixels are whole, and it is these that are asked for
        return None


def _stream(image: Any) -> Any:
    return image if isinstance(image, Path) else io.BytesIO(image)


def _reason(error: Exception, image: Any) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file, or it is a broken link"
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"more than the {limit:,} pixels that are decoded, as of a file made to fill the memory"
    if isinstance(error, UnidentifiedImageError):
        head = _head(image)
        if head in (b"II*\0", b"MM\0*"):
            return (
                "a TIFF whose head is damaged, or of other channels or numbers than are read: save it grey "
                "or RGB, of 8 or 16 bits"
            )
        return f"it is none of {', '.join(FORMATS)}, or its head is damaged" if head else "it is empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _head(image: Any) -> bytes:
    if not isinstance(image, Path):
        return bytes(image[:4])
    with image.open("rb") as file:
        return file.read(4)


class _SayOnce:
    """Says of the first image of a kind, and not of every one, that a part is all that is taken of it."""

    def __init__(self, text: str) -> None:
        self.text, self.said = text, False

    def __call__(self, *args: object) -> None:
        if not self.said:
            self.said = True
            log.warning(self.text, *args)


_say_first_frame = _SayOnce("%s has several frames; of such images the first is taken (said once)")
_say_first_channels = _SayOnce("%s has %d channels, of which only the first %d can be read (said once)")
