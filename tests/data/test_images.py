"""Opening an image safely: what must be refused, and the pixels of what must work."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vizsage.config import build_config
from vizsage.data import images
from vizsage.data.images import BadImage, EmbeddedImage, FileImage, load_image
from vizsage.errors import DataError

BIG = 10**9
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


pytestmark = pytest.mark.filterwarnings("error")  # Pillow's own limits and modes must have nothing to warn of


def encoded(image: Image.Image, format: str, **options: object) -> EmbeddedImage:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return EmbeddedImage("image", buffer.getvalue())


def load(ref: EmbeddedImage, resize_px: int | None = None) -> Image.Image:
    return load_image(ref, max_image_px=BIG, resize_px=resize_px)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def close(found: tuple[int, ...], expected: tuple[int, ...], tolerance: int = 12) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(found, expected, strict=True))


# names and files


def test_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(b"bytes")
    assert FileImage("sub/a.png", tmp_path).read() == b"bytes"


@pytest.mark.parametrize("name", ["../secret.png", "sub/../../secret.png", "/etc/hostname", "a\0.png"])
def test_name_that_leaves_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "Images" / "sub").mkdir(parents=True)
    with pytest.raises(DataError, match=r"leaves|NUL"):
        FileImage(name, tmp_path / "Images").read()


@pytest.mark.parametrize("link", ["file", "folder", "chain"])
def test_symlink_out_of_the_folder(tmp_path: Path, link: str) -> None:
    images = tmp_path / "Images"
    images.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"secret")
    name = "a.png"
    if link == "file":
        (images / "a.png").symlink_to(tmp_path / "out" / "a.png")
    elif link == "folder":
        (images / "sub").symlink_to(tmp_path / "out")
        name = "sub/a.png"
    else:
        (images / "b.png").symlink_to(tmp_path / "out" / "a.png")
        (images / "a.png").symlink_to("b.png")
    with pytest.raises(DataError, match=r"symbolic link that leaves .*; copy the file into it. .*Images itself may be"):
        FileImage(name, images).read()


def test_symlinks_that_stay_inside_work(tmp_path: Path) -> None:
    real = tmp_path / "elsewhere"
    real.mkdir()
    (real / "a.png").write_bytes(b"bytes")
    (real / "b.png").symlink_to("a.png")
    (tmp_path / "Images").symlink_to(real)  # the folder itself may be a link
    assert FileImage("b.png", tmp_path / "Images").read() == b"bytes"


def test_a_sibling_with_the_same_prefix_is_outside(tmp_path: Path) -> None:
    (tmp_path / "Images").mkdir()
    (tmp_path / "Images2").mkdir()
    (tmp_path / "Images2" / "a.png").write_bytes(b"secret")
    (tmp_path / "Images" / "a.png").symlink_to(tmp_path / "Images2" / "a.png")
    with pytest.raises(DataError, match="leaves"):
        FileImage("a.png", tmp_path / "Images").read()


def test_missing_file_folder_and_pipe(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"'gone\.png' is missing in") as missing:
        FileImage("gone.png", tmp_path).read()
    assert not isinstance(missing.value, BadImage)  # on_bad_image: skip is for what cannot be decoded
    for name in ("folder", "pipe"):
        with pytest.raises(DataError, match="is not a regular file"):
            FileImage(name, tmp_path).read()


# what is refused


def refused(ref: EmbeddedImage, match: str, max_image_px: int = BIG) -> None:
    with pytest.raises(BadImage, match=match) as error:
        load_image(ref, max_image_px=max_image_px)
    assert error.value.name == ref.name
    assert "\n" not in str(error.value)


def test_zero_bytes() -> None:
    refused(EmbeddedImage("empty.jpg", b""), "'empty.jpg' is a file of zero bytes")


def test_not_an_image() -> None:
    refused(EmbeddedImage("page.jpg", b"<html>404</html>"), "is not an image")
    refused(encoded(noise(8, 8), "EPS"), "is not an image")  # Pillow would start Ghostscript


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated(format: str) -> None:
    whole = encoded(noise(64, 64), format)
    refused(EmbeddedImage("cut", whole.data[: len(whole.data) // 2]), "cannot be decoded|is not an image")


def test_damaged_bytes_raise_nothing_but_bad_image() -> None:
    """Whatever a decoder trips over becomes one clear line."""
    random = np.random.default_rng(1)
    for format in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"):
        whole = encoded(noise(40, 30).quantize() if format == "GIF" else noise(40, 30), format).data
        for _ in range(60):
            damaged = bytearray(whole)
            for position in random.integers(0, min(len(damaged), 400), 4):
                damaged[position] = random.integers(256)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow may warn of what it repairs
                try:
                    message = ""
                    assert load_image(EmbeddedImage("x", bytes(damaged)), max_image_px=10**6).mode == "RGB"
                except BadImage as error:
                    message = str(error)
                assert "\n" not in message


def announcing(width: int, height: int) -> EmbeddedImage:
    """A PNG of a few bytes whose header announces `width` x `height` pixels."""
    data = bytearray(encoded(Image.new("1", (1, 1)), "PNG").data)
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return EmbeddedImage("bomb.png", bytes(data))


def test_decompression_bomb_is_refused_from_its_header() -> None:
    refused(
        announcing(30_000, 30_000),
        r"has 30000 x 30000 pixels, more than max_image_px allows \(64000000\); scale it down, or raise max_image_px",
        max_image_px=build_config({}).max_image_px,
    )


def test_limit_is_inclusive_and_above_pillows_own() -> None:
    image = encoded(Image.new("RGB", (20, 10), RED), "PNG")
    assert load_image(image, max_image_px=200).size == (20, 10)
    refused(image, "more than max_image_px", max_image_px=199)
    # Pillow by itself would warn here, of more than 89,478,485; this one is decoded, and found to be cut short.
    refused(announcing(14_000, 14_000), "cannot be decoded", max_image_px=200_000_000)


def scans(count: int) -> EmbeddedImage:
    """A progressive JPEG of 40 x 40 pixels whose last scan is repeated."""
    data = encoded(noise(40, 40), "JPEG", progressive=True).data
    last = data[data.rfind(b"\xff\xda") : -2]
    return EmbeddedImage("scans.jpg", data[:-2] + last * (count - data.count(b"\xff\xda")) + data[-2:])


def test_a_jpeg_of_hundreds_of_scans_is_refused() -> None:
    """Each scan is a pass over the whole image: what they cost together is limited."""
    message = "'scans.jpg' is a progressive JPEG of 300 scans; of its size at most 40 are decoded, so save it again"
    refused(scans(300), message, max_image_px=3200)
    refused(scans(41), "of its size at most 40", max_image_px=3200)
    assert load_image(scans(40), max_image_px=3200).size == (40, 40)
    assert load_image(scans(10), max_image_px=1600).size == (40, 40)  # what encoders make, at the limit of pixels
    assert load(scans(300)).size == (40, 40)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_bands_are_seen_in_no_pixel(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (13, 9, 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        data = encoded(Image.fromarray(pixels.view(np.uint32)[:, :, 0].astype(np.uint16)), "PNG")
    elif mode == "P":
        data = encoded(image.convert("RGB").quantize(16), "PNG", transparency=3)
    else:
        data = encoded(image.convert(mode) if mode != "CMYK" else image.convert("RGB").convert("CMYK"), "TIFF")
    whole = load(data)
    monkeypatch.setattr(images, "BAND_PX", 20)
    assert load(data).tobytes() == whole.tobytes()
    assert len(whole.getcolors(1000)) > (1 if mode == "1" else 10)


def test_the_memory_that_transparency_takes(tmp_path: Path) -> None:
    """Of a separate process, because Pillow's memory is not Python's."""
    image = Image.linear_gradient("L").resize((3000, 3000)).quantize(16)
    image.save(tmp_path / "a.png", transparency=3, compress_level=1)
    code = (
        "import resource, sys; from pathlib import Path; from vizsage.data.images import FileImage, load_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "load_image(FileImage('a.png', Path(sys.argv[1])), max_image_px=10**8)\n"
        "print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 9e6)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 10  # bytes per pixel


def test_pixels_without_a_known_range() -> None:
    refused(encoded(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"), "floating-point")
    refused(encoded(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF"), "32-bit")


def test_bad_image_survives_pickling_and_rebuilding_from_its_message() -> None:
    error = pickle.loads(pickle.dumps(BadImage("image 'a' is bad", "a")))
    assert (error.name, str(error)) == ("a", "image 'a' is bad")
    assert str(BadImage("message alone")) == "message alone"


# what must work


def test_cmyk_jpeg() -> None:
    image = load(encoded(Image.new("RGB", (16, 16), RED).convert("CMYK"), "JPEG", quality=95))
    assert image.mode == "RGB"
    assert close(image.getpixel((8, 8)), RED)


def test_palette_with_transparency_lies_over_white() -> None:
    palette = Image.new("P", (4, 1))
    palette.putpalette([0, 0, 0, *RED, *BLUE])
    palette.putdata([0, 1, 2, 0])
    for transparency in (0, bytes([0, 255, 255])):
        image = load(encoded(palette, "PNG", transparency=transparency))
        assert [image.getpixel((x, 0)) for x in range(4)] == [WHITE, RED, BLUE, WHITE]


def test_half_transparent_red_over_white() -> None:
    image = load(encoded(Image.new("RGBA", (2, 2), (*RED, 128)), "PNG"))
    assert close(image.getpixel((0, 0)), (255, 127, 127), 1)


def test_grey_with_alpha() -> None:
    image = load(encoded(Image.new("LA", (2, 2), (0, 0)), "PNG"))
    assert image.getpixel((0, 0)) == WHITE
    assert load(encoded(Image.new("LA", (2, 2), (10, 255)), "PNG")).getpixel((0, 0)) == (10, 10, 10)


def test_one_bit() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    loaded = load(encoded(image, "PNG"))
    assert [loaded.getpixel((x, 0)) for x in range(2)] == [(0, 0, 0), WHITE]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(format: str) -> None:
    values = np.array([[0, 300, 257 * 100, 65535]], np.uint16)
    loaded = load(encoded(Image.fromarray(values), format))
    assert [loaded.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 100, 255]


def test_sixteen_bits_big_endian() -> None:
    values = np.array([[0, 257 * 100, 65535]], ">u2")
    image = Image.frombytes("I;16B", (3, 1), values.tobytes())
    assert [load(encoded(image, "TIFF")).getpixel((x, 0))[0] for x in range(3)] == [0, 100, 255]


def upright() -> Image.Image:
    """Red, green above; blue, white below: 32 pixels a field, so that JPEG keeps the colours."""
    image = Image.new("RGB", (96, 64), WHITE)
    for box, colour in (((0, 0), RED), ((48, 0), GREEN), ((0, 32), BLUE)):
        image.paste(colour, (*box, box[0] + 48, box[1] + 32))
    return image


# How a camera stores the upright image for each value of the tag: the inverse of what a viewer does.
STORED: dict[int, Callable[[Image.Image], Image.Image]] = {
    1: lambda i: i,
    2: lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda i: i.transpose(Image.Transpose.ROTATE_180),
    4: lambda i: i.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda i: i.transpose(Image.Transpose.TRANSPOSE),
    6: lambda i: i.transpose(Image.Transpose.ROTATE_90),
    7: lambda i: i.transpose(Image.Transpose.TRANSVERSE),
    8: lambda i: i.transpose(Image.Transpose.ROTATE_270),
}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_rotated(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if format in ("JPEG", "WEBP") else {}
    loaded = load(encoded(STORED[orientation](upright()), format, exif=exif, **options))
    assert loaded.size == (96, 64)
    corners = [loaded.getpixel(at) for at in ((20, 10), (76, 10), (20, 54), (76, 54))]
    assert all(close(found, colour) for found, colour in zip(corners, (RED, GREEN, BLUE, WHITE), strict=True)), corners


def test_damaged_exif_does_not_spoil_a_sound_image() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow says that it is damaged
        assert load(encoded(upright(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")).size == (96, 64)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_resize_keeps_the_aspect_ratio_and_the_colours(format: str) -> None:
    image = upright().resize((1920, 1280), Image.Resampling.NEAREST)
    loaded = load(encoded(image, format), resize_px=6000)
    assert loaded.width * loaded.height <= 6000
    assert loaded.width * loaded.height > 5700
    assert loaded.width / loaded.height == pytest.approx(1.5, rel=0.03)
    assert close(loaded.getpixel((20, 10)), RED)
    assert close(loaded.getpixel((loaded.width - 10, 10)), GREEN)


def test_resize_leaves_small_images_and_keeps_a_thin_strip() -> None:
    assert load(encoded(noise(32, 32), "PNG"), resize_px=1024).size == (32, 32)
    width, height = load(encoded(Image.new("RGB", (50_000, 2)), "PNG"), resize_px=1024).size
    assert height == 1
    assert 1 <= width <= 1024


def test_resize_of_a_rotated_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    loaded = load(encoded(STORED[6](upright().resize((960, 640))), "JPEG", exif=exif), resize_px=6144)
    assert loaded.size == (96, 64)
