"""Pictures in: the slices and masks of data sets that ship PNG files."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from boltzmed.errors import InputError, one_line

# What Pillow raises on damaged bytes, and on a header that promises billions of pixels.
_BROKEN = (
    *(OSError, ValueError, SyntaxError, EOFError, MemoryError, zlib.error, struct.error),
    Image.DecompressionBombError,
)
_CONVERTED = {"1": "L", "P": "RGB"}  # bits become 0 and 255, palettes are resolved
_GREY_FIRST = ("L", "LA", "RGB", "RGBA")  # modes whose first channel is 8-bit grey or red


def read_picture(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read the first channel of an 8-bit picture as (H, W): rows downwards, columns to the right.

    Grey pictures saved as RGB or RGBA repeat their value in three channels; the opacity is never
    looked at. Palettes are resolved, and black and white become 0 and 255.

    Raises:
        InputError: no picture, a truncated or damaged one, or one of more than 8 bits per channel.
    """
    path = Path(path)
    try:
        with Image.open(path) as picture:
            mode = picture.mode
            if mode in _CONVERTED:
                picture.load()
                return np.asarray(picture.convert(_CONVERTED[mode]).getchannel(0)).copy()
            if mode in _GREY_FIRST:
                return np.asarray(picture.getchannel(0)).copy()
    except _BROKEN as error:
        raise InputError(
            f"{path.name}: expected a whole picture, received one that is truncated or damaged"
            f" ({one_line(error, path)}); copy it again"
        ) from error
    raise InputError(
        f"{path.name}: expected an 8-bit picture, received mode {mode}; convert it to 8 bits"
    )
