"""Image files as inputs: read by Pillow, scaled, cropped, normalized and laid out as requested."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxshare.errors import OnnxShareError, SamplesError, UsageError
from onnxshare.io.tensors import Array
from onnxshare.samples.conform import check_shape, first_line, fit, only_input, sample_shape
from onnxshare.samples.input_specs import Batching, InputSpec
from onnxshare.samples.lazy_arrays import Bounds, Piece, gather
from onnxshare.support.numbers import whole_number
from onnxshare.support.option_text import option

if TYPE_CHECKING:
    from PIL.Image import Image

#: Endings of files that are taken for images.
SUFFIXES = frozenset(".png .jpg .jpeg .bmp .gif .webp .tif .tiff .ppm .pgm".split())

#: Bytes for each pixel that is read, and for each number that these become. A small file can
#: announce any number of pixels: they must fit into what a small file may unpack to.
_PER_PIXEL, _PER_NUMBER = 12, 12

#: Named normalizations as (mean, standard deviation) of pixels from 0 to 255. That of ImageNet
#: is the one of torchvision's models.
_NAMED: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "0-255": ((0.0,), (1.0,)),
    "0-1": ((0.0,), (255.0,)),
    "-1..1": ((127.5,), (127.5,)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class ImageOptions:
    """How image files become inputs.

    Attributes:
        normalize: `0-255` (pixels as they are), `0-1`, `-1..1`, `imagenet`, or `MEAN/STD` for
            pixels from 0 to 255, each one number or one per channel: (pixel - MEAN) / STD.
        layout: `nchw` or `nhwc`; `auto` takes it from the input's shape.
        resize: `SIDE` scales the shorter side to that, `HEIGHTxWIDTH` to exactly that, before the
            centre is cropped to the model's size; empty: as little as covers the model's size.
    """

    normalize: str = "0-255"
    layout: str = "auto"
    resize: str = ""

    def scale(self, channels: int) -> tuple[Array, Array]:
        """Mean and standard deviation per channel, of pixels from 0 to 255.

        Raises:
            UsageError: `normalize` is none of the forms, or does not have that many channels.
        """
        known = _NAMED.get(self.normalize)
        try:
            mean, std = known or tuple(
                tuple(float(item) for item in part.split(","))
                for part in self.normalize.split("/", 1)
            )
            result = tuple(np.broadcast_to(np.array(p), (channels,)) for p in (mean, std))
            if not (np.isfinite(result).all() and (result[1] > 0).all()):
                raise ValueError
        except ValueError:
            raise UsageError(
                f"{option('--normalize', self.normalize)} does not suit images of {channels} "
                f"channel{'' if channels == 1 else 's'}",
                f"give {', '.join(_NAMED)}, or MEAN/STD, each one number or {channels}",
            ) from None
        return result[0], result[1]

    def size(self) -> tuple[int, ...]:
        """The sizes requested: none, the shorter side, or height and width.

        Raises:
            UsageError: `resize` is none of the forms.
        """
        parts = self.resize.lower().replace("×", "x").split("x") if self.resize else []
        sizes = [whole_number(part) or 0 for part in parts]
        if len(sizes) > 2 or not all(0 < size < 2**15 for size in sizes):
            raise UsageError(
                f"{option('--resize', self.resize)} is not a size",
                "give SIDE or HEIGHTxWIDTH, such as 256",
            )
        return tuple(sizes)


@dataclass(frozen=True)
class _Frame:
    """What an input wants of an image: channels, sizes (None where any), and its layout."""

    channels: int
    height: int | None
    width: int | None
    layout: str


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder and of its subfolders, sorted."""
    found = [*folder.iterdir(), *folder.glob("*/*")]
    return sorted(p for p in found if p.suffix.lower() in SUFFIXES and p.is_file())


def image_pieces(
    files: Sequence[Path],
    specs: Sequence[InputSpec],
    layout: Batching,
    path: Path,
    options: ImageOptions,
    bounds: Bounds,
) -> tuple[list[Piece], Mapping[str, Array]]:
    """The samples of image files, one each, decoded only when they are needed.

    Raises:
        SamplesError: Pillow is not installed, an image cannot be read, or the input is none that
            takes images.
        UsageError: an option does not suit the input.
    """
    _pillow(path)
    spec = only_input(specs, path, "images")
    frame = _frame(spec, layout, options, path)
    options.scale(frame.channels)
    convert = partial(_convert, frame=frame, options=options, most=bounds.unpacked(0))
    shape = convert(files[0]).shape
    check_shape((1, *shape), spec, layout, files[0])

    def piece(file: Path) -> Piece:
        def read(rows: Array) -> dict[str, Array]:
            values = convert(file)
            if values.shape != shape:
                raise SamplesError(
                    f"{file}: becomes {'×'.join(map(str, values.shape))}, and {files[0].name} "
                    f"{'×'.join(map(str, shape))}",
                    f"give one size for all with {option('--resize HEIGHTxWIDTH')}",
                )
            if spec.dtype.kind in "iu":
                values = np.rint(values)
            return {spec.name: fit(values[np.newaxis], spec, layout, file)}

        return Piece(file, 1, read, {spec.name: shape})

    pieces = [piece(file) for file in files]
    return pieces, gather(pieces, prod(shape) * spec.dtype.itemsize, path, bounds)


def _pillow(path: Path) -> Any:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise SamplesError(
            f"{path}: images are read by Pillow, which is not installed",
            "pip install 'onnxshare[images]', or give an .npz or .npy",
        ) from None
    return Image, ImageOps


def _frame(spec: InputSpec, batch: Batching, options: ImageOptions, path: Path) -> _Frame:
    shape = sample_shape(spec, batch)
    if shape is None or len(shape) not in (2, 3):
        raise SamplesError(f"{path}: images do not suit input '{spec.name}' {spec.words}")
    if len(shape) == 2:
        return _Frame(1, shape[0], shape[1], "hw")
    chosen = _layout(spec, shape) if options.layout == "auto" else options.layout
    if chosen not in ("nchw", "nhwc"):
        raise UsageError(f"{option('--layout', options.layout)} is neither nchw nor nhwc nor auto")
    channels, height, width = shape if chosen == "nchw" else (shape[2], shape[0], shape[1])
    if channels is not None and channels not in _MODES:
        raise SamplesError(
            f"{path}: input '{spec.name}' {spec.words} has {channels} channels, and images have "
            "1, 3 or 4"
        )
    return _Frame(channels or 3, height, width, chosen)


def _layout(spec: InputSpec, shape: Sequence[int | None]) -> str:
    """Where the channels are: on the axis whose size is a number of channels; failing that, on the
    only one of the two that is open."""
    for test in (_MODES.__contains__, lambda size: size is None):
        first, last = test(shape[0]), test(shape[2])
        if first != last:
            return "nchw" if first else "nhwc"
        if first:
            break
    raise UsageError(
        f"input '{spec.name}' {spec.words} does not say where its channels are",
        f"say {option('--layout nchw')} or {option('--layout nhwc')}",
    )


def _convert(path: Path, frame: _Frame, options: ImageOptions, most: int) -> Array:
    """One image as the model wants it, without a sample axis, in single precision."""
    pixels = _pixels(path, frame, options, most)
    if _PER_NUMBER * pixels.size > most:
        raise _too_large(path, f"becomes {pixels.size:,} numbers")
    mean, std = options.scale(frame.channels)
    exact = pixels.astype(np.float64)
    exact -= mean
    exact /= std
    values = exact.astype(np.float32)
    if frame.layout == "nchw":
        return np.ascontiguousarray(values.transpose(2, 0, 1))
    return values[:, :, 0] if frame.layout == "hw" else values


def _too_large(path: Path, what: str) -> SamplesError:
    return SamplesError(
        f"{path}: {what}", f"scale it down, or raise the bound with {option('--memory-limit')}"
    )


def _pixels(path: Path, frame: _Frame, options: ImageOptions, most: int) -> Array:
    """Height × width × channels, from 0 to 255."""
    library, operations = _pillow(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with library.open(path) as image:
                if _PER_PIXEL * prod(image.size) > most:
                    raise _too_large(path, f"has {prod(image.size):,} pixels")
                upright = operations.exif_transpose(_eight_bits(image))
                fitted = _fitted(upright.convert(_MODES[frame.channels]), frame, options.size())
    except OnnxShareError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they like on damaged files
        raise SamplesError(f"{path}: not a readable image: {first_line(error)}") from error
    return np.asarray(fitted).reshape(fitted.height, fitted.width, frame.channels)


def _eight_bits(image: Image) -> Image:
    """16-bit greys as 8-bit ones: Pillow's own conversion would cut them off at 255."""
    if not image.mode.startswith("I"):
        return image
    from PIL import Image as library

    return library.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype("uint8"))


def _fitted(image: Image, frame: _Frame, asked: tuple[int, ...]) -> Image:
    """Scale an image as asked, or as little as covers the frame, and crop its centre."""
    height, width = frame.height or image.height, frame.width or image.width
    if len(asked) == 2:
        target = (asked[1], asked[0])
    else:
        factor = max(height / image.height, width / image.width)
        if asked:
            factor = asked[0] / min(image.size)
        target = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    if target != image.size:
        image = image.resize(target, resample=2)  # bilinear, smoothed where it shrinks
    height, width = frame.height or image.height, frame.width or image.width
    if height > image.height or width > image.width:
        raise SamplesError(
            f"{option('--resize')} leaves {image.height}×{image.width}, less than the model's "
            f"{height}×{width}",
            "ask for more",
        )
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
