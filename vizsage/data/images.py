"""Decoding images safely: names stay inside their folder, only image formats are parsed, pixels fit into memory."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, ClassVar

from PIL import Image, UnidentifiedImageError

from vizsage.config import Config
from vizsage.data.opening import leaves_folder, open_inside
from vizsage.data.sample import ImageRef
from vizsage.errors import DataError, one_line, quoted

# Pillow's own limit is global and warns before it raises; `load_image` enforces max_image_px of the settings instead.
Image.MAX_IMAGE_PIXELS = None

# Without this list Pillow would also start Ghostscript for EPS, and parse dozens of container formats.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")

# Pixels that are converted to RGB at a time.
BAND_PX = 2**20
# A progressive JPEG is decoded once per scan, so a small file with thousands of scans would take hours. Encoders make
# about ten. The limit holds for an image of max_image_px pixels; smaller ones may have more. In compressed data 0xFF is
# followed by 0x00, so that counting the marker counts the scans.
MAX_SCANS = 20
_SCAN = b"\xff\xda"

# What Pillow's decoders raise on damaged bytes; they have no common base class.
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError,
    RuntimeError, struct.error, zlib.error,
)  # fmt: skip

# From the value of EXIF tag 0x0112 to the operation that turns the image upright (JEITA CP-3451, 4.6.4 A).
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(DataError):
    """The bytes of an image can be read but not used. `on_bad_image: skip` leaves such images out."""

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)  # pickled between processes, see __reduce__
        self.name = name

    def __reduce__(self) -> tuple[type[BadImage], tuple[str, str]]:
        return BadImage, (str(self), self.name)


@dataclass(frozen=True, slots=True)
class FileImage:
    """An image file below `folder`."""

    name: str
    folder: Path
    named: ClassVar[bool] = True

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self.folder / self.name

    def read(self) -> bytes:
        """The bytes of the file. Raises DataError when it is missing, unreadable or outside the folder."""
        if reason := leaves_folder(self.name, self.folder):
            raise DataError(f"image {quoted(self.name)} {reason}")
        try:
            with open_inside(self.folder, self.name) as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            raise DataError(f"image {quoted(self.name)} is missing in {self.folder}") from None
        except OSError as error:
            raise DataError(f"image {quoted(self.name)} in {self.folder} cannot be read: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class EmbeddedImage:
    """An image whose bytes are held in memory."""

    name: str
    data: bytes
    named: ClassVar[bool] = True

    def read(self) -> bytes:
        """The bytes."""
        return self.data


def refuse_bad_images(refs: Iterable[ImageRef], config: Config) -> None:
    """Raise BadImage if on_bad_image is "fail" and an image cannot be decoded; called for samples without an answer."""
    if config.on_bad_image == "fail":
        for ref in refs:
            load_image(ref, max_image_px=config.max_image_px)


def load_image(ref: ImageRef, *, max_image_px: int, resize_px: int | None = None) -> Image.Image:
    """Decode an image to 8-bit RGB, turned upright by its EXIF tag, transparent parts white.

    Args:
        ref: the image; its bytes are read here.
        max_image_px: an image whose header announces more pixels (width x height) is refused before it is decoded.
        resize_px: an image with more pixels is scaled down to at most this many, its aspect ratio kept.

    Raises:
        BadImage: the bytes are empty, no image, damaged, too large or of a pixel type without a known range.
        DataError: the bytes cannot be read.
    """
    data = ref.read()
    if not data:
        raise _bad(ref.name, "is a file of zero bytes")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_image_px:
                size = f"has {width} x {height} pixels, more than max_image_px allows ({max_image_px})"
                raise _bad(
                    ref.name, f"{size}; scale it down, or raise max_image_px: 10 to 25 bytes of memory per pixel"
                )
            scans = data.count(_SCAN) if image.format in ("JPEG", "MPO") else 1
            if scans * width * height > MAX_SCANS * max_image_px:
                allowed = f"of its size at most {MAX_SCANS * max_image_px // (width * height)} are decoded"
                raise _bad(ref.name, f"is a progressive JPEG of {scans} scans; {allowed}, so save it again")
            target = _smaller_size(width, height, resize_px)
            if target:  # JPEG decodes faster at 1/2, 1/4 or 1/8 scale; double the target is enough to resample from
                image.draft(image.mode, (2 * target[0], 2 * target[1]))
            image.load()
            rgb = _to_rgb(ref.name, image)
            # Read the tag after loading: Pillow turns TIFF upright itself and then removes it.
            turn = _UPRIGHT.get(_orientation(image))
            target = _smaller_size(rgb.width, rgb.height, resize_px)
            if target:
                rgb = rgb.resize(target, Image.Resampling.LANCZOS)
            return rgb.transpose(turn) if turn is not None else rgb
    except UnidentifiedImageError:
        raise _bad(ref.name, f"is not an image; known formats are {', '.join(FORMATS)}") from None
    except _DECODER_ERRORS as error:
        raise _bad(ref.name, f"cannot be decoded: {one_line(error)}") from None


def header_px(ref: ImageRef) -> int:
    """The pixels (width x height) that the header of an image announces, undecoded; 0 where none can be read."""
    try:
        with _opened(ref) as source, Image.open(source, formats=FORMATS) as image:
            return int(image.width * image.height)
    except (DataError, *_DECODER_ERRORS):
        return 0


def _opened(ref: ImageRef) -> BinaryIO:
    """The bytes as a file, of which Pillow reads no more than it needs. Raises DataError, OSError."""
    if isinstance(ref, FileImage) and not leaves_folder(ref.name, ref.folder):
        return open_inside(ref.folder, ref.name)
    return BytesIO(ref.read())


def _bad(name: str, reason: str) -> BadImage:
    return BadImage(f"image {quoted(name)} {reason}", name)


def _smaller_size(width: int, height: int, resize_px: int | None) -> tuple[int, int] | None:
    """The size that has at most `resize_px` pixels, or None when the image has no more."""
    if resize_px is None or width * height <= resize_px:
        return None
    scale = math.sqrt(resize_px / (width * height))
    # An edge that would be shorter than one pixel is one, and the other is shortened.
    new_width = max(1, min(int(width * scale), resize_px))
    new_height = max(1, min(int(height * scale), resize_px))
    return new_width, new_height


def _to_rgb(name: str, image: Image.Image) -> Image.Image:
    """The image in RGB, converted in bands: intermediate steps take several times the memory of what they convert."""
    if image.mode == "F":
        raise _bad(name, "has floating-point pixels without a known range; save it with 8 or 16 bits per channel")
    rows = max(1, BAND_PX // image.width)
    rgb = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(_band_to_rgb(name, band), (0, top))
    return rgb


def _band_to_rgb(name: str, image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _sixteen_to_eight_bits(name, image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _sixteen_to_eight_bits(name: str, image: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255, where `convert` would clip everything above 255 to white."""
    import numpy as np

    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise _bad(name, "has 32-bit pixels without a known range; save it with 8 or 16 bits per channel")
    return Image.fromarray(((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except _DECODER_ERRORS:
        return 1  # an image with damaged EXIF data, as web downloads have, is shown as it is stored
