"""Photos inside the graph: pixels of any size to square photos as ``read_image`` makes them, and to features.

In: decoded photos as uint8 on one canvas, and their sizes. Out: uint8 ``(photos, 3, size, size)``, the same bytes as
Pillow's bicubic filter with antialiasing gives.
Pillow resizes along one side and then along the other, by weights that are rounded to 22 bits, and rounds to bytes
after each. With such weights as float64, all sums are exact, so this arithmetic is repeated exactly."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import spox.opset.ai.onnx.v20 as op
from spox import Tensor, Var, argument

from mixfit.choices import Crop
from mixfit.data.photos.decode import PAD_GREY
from mixfit.export.ops import DOUBLE, FLOAT, INT, as_type, at_least, clip, const, rows_of, total, upright, where

_BITS = 22
"""Of the fractions of Pillow's weights (``PRECISION_BITS`` in its Resample.c)."""
_REACH = 2.0
"""Of the bicubic filter, in pixels of the smaller photo."""
_BLOCKS = 16
"""Parts of a row that are computed from their own surroundings: nearly all weights of a whole row are 0."""


@dataclass(frozen=True, kw_only=True)
class PhotoInputs:
    """The inputs of the file for photos. Each photo is there once, after those of earlier rows; without photos, the
    inputs are empty."""

    photos: Var
    """uint8 ``(photos, height, width, 3)``: RGB, each photo in the upper left corner of its canvas."""
    sizes: Var
    """int64 ``(photos, 2)``: height and width of each photo."""
    rows: Var
    """int64 ``(photos,)``: the row of each photo, in ascending order."""
    columns: Var | None
    """int64 ``(photos,)``: the image column of each; None with a single column."""

    @classmethod
    def make(cls, image_columns: int) -> "PhotoInputs":
        """New inputs of a graph."""
        several = argument(Tensor(INT, ("photos",))) if image_columns > 1 else None
        return cls(
            photos=argument(Tensor(np.uint8, ("photos", "height", "width", 3))),
            sizes=argument(Tensor(INT, ("photos", 2))),
            rows=argument(Tensor(INT, ("photos",))),
            columns=several,
        )

    def by_name(self) -> dict[str, Var]:
        """All, by their names in the file."""
        found = {"photos": self.photos, "photo_sizes": self.sizes, "photo_rows": self.rows}
        return found | ({} if self.columns is None else {"photo_columns": self.columns})


def square_photos(inputs: PhotoInputs, size: int, crop: Crop) -> Var:
    """uint8 ``(photos, 3, size, size)``, as ``read_image(..., size=size, crop=crop)`` has them."""

    def one(number: Var, going_on: Var) -> Sequence[Var]:
        canvas = op.squeeze(op.gather(inputs.photos, number, axis=0), const([0]))
        sides = op.squeeze(op.gather(inputs.sizes, number, axis=0), const([0]))
        height = op.slice(sides, const([0]), const([1]))
        photo = op.slice(canvas, const([0]), height, const([0]))  # its width is cut by what is taken of it
        return [going_on, _square(photo, sides, size, crop)]

    every = op.loop(rows_of(inputs.photos), const([True]), body=one)[0]
    return op.reshape(op.transpose(every, perm=(0, 3, 1, 2)), const([-1, 3, size, size], INT))


def _square(photo: Var, sides: Var, size: int, crop: Crop) -> Var:
    """One photo ``(height, width, 3)`` as a square.

    Args:
        sides: int64 ``(2,)``: its height and width; the array may be wider.
    """
    height, width = (as_type(op.gather(sides, const([place]), axis=0), DOUBLE) for place in (0, 1))
    nothing, wanted = const([0.0], DOUBLE), const([float(size)], DOUBLE)
    if crop == "pad":
        longer = op.max([height, width])
        inner = [at_least(op.round(one * float(size) / longer), 1.0) for one in (height, width)]
        found = _resized(photo, (nothing, height, height, inner[0]), (nothing, width, width, inner[1]))
        inside = [as_type(one, INT) for one in inner]
        before = [op.div(const([size], INT) - one, const([2], INT)) for one in inside]
        after = [const([size], INT) - one - start for one, start in zip(inside, before, strict=True)]
        around = op.concat([*before, const([0], INT), *after, const([0], INT)], axis=0)
        return op.pad(found, around, const(PAD_GREY, np.uint8))
    if crop == "center":
        side = op.min([height, width])
        top, left = ((one - side) / 2.0 for one in (height, width))
        return _resized(photo, (top, top + side, height, wanted), (left, left + side, width, wanted))
    return _resized(photo, (nothing, height, height, wanted), (nothing, width, width, wanted))


Range = tuple[Var, Var, Var, Var]
"""Where a range of pixels starts and ends, how many there are in all, and the number of pixels that it becomes; float64
``(1,)`` each."""


def _resized(photo: Var, rows: Range, cols: Range) -> Var:
    """uint8 ``(height, width, 3)`` in another size.

    Pillow 13 begins with the height where that loses more than twice as many pixels as the width."""

    three = const([3], INT)

    def along_rows(x: Var) -> Var:
        # Columns of bytes instead of pixels, as onnxruntime turns whole matrices several times faster.
        turned = op.transpose(op.flatten(x, axis=1), perm=(1, 0))
        upwards = op.reshape(turned, op.concat([const([-1], INT), three, rows_of(x)], axis=0))
        found = op.transpose(op.flatten(_resampled(upwards, cols), axis=2), perm=(1, 0))
        return op.reshape(found, op.concat([rows_of(x), const([-1], INT), three], axis=0))

    lost, lost_of_width = (all_of - wanted for _, _, all_of, wanted in (rows, cols))
    tall = op.and_(op.greater(lost, const([0.0], DOUBLE)), op.greater(lost, lost_of_width * 2.0))
    return op.if_(
        tall,
        then_branch=lambda: [along_rows(_resampled(photo, rows))],
        else_branch=lambda: [_resampled(along_rows(photo), rows)],
    )[0]


def _resampled(photo: Var, wanted: Range) -> Var:
    """uint8 ``(length, others, 3)`` with another length."""
    start, end, length, count = wanted
    scale = (end - start) / count
    stretch = at_least(scale, 1.0)
    reach = stretch * _REACH
    number = op.range(const(0, INT), op.squeeze(as_type(count, INT), const([0])), const(1, INT))
    centre = start + (as_type(number, DOUBLE) + 0.5) * scale
    first = op.max([as_type(centre - reach + 0.5, INT), const([0], INT)])
    last = op.min([as_type(centre + reach + 0.5, INT), as_type(length, INT)])
    taps = as_type(op.ceil(reach), INT) * 2 + 1
    tap = op.range(const(0, INT), op.squeeze(taps, const([0])), const(1, INT))
    # One row for each pixel of the result, and in it the pixels that it is made of.
    place = upright(first) + op.unsqueeze(tap, const([0]))
    weight = _bicubic((as_type(place, DOUBLE) - upright(centre) + 0.5) * (const([1.0], DOUBLE) / stretch))
    weight = where(op.less(place, upright(last)), weight, 0.0)
    weight = weight / total(weight, keep=True)
    rounded = op.floor(op.abs(weight) * float(2**_BITS) + 0.5) * op.sign(weight) * 0.5**_BITS
    return _weighted(photo, place, rounded)


def _weighted(photo: Var, place: Var, weight: Var) -> Var:
    """Sums of pixels along the first axis, rounded to bytes.

    The sums are taken in blocks of neighbours, each a product with the pixels around it.

    Args:
        photo: uint8 ``(length, others, 3)``.
        place, weight: ``(count, taps)``: the pixels of each sum, in ascending order, and their weights.
    """
    blocks, count = const([_BLOCKS], INT), rows_of(place)
    each = op.div(count + (_BLOCKS - 1), blocks)
    number = op.range(const(0, INT), op.squeeze(each * _BLOCKS, const([0])), const(1, INT))
    number = op.min([number, count - 1])  # the last block repeats the last sum
    shape = op.concat([blocks, each, const([-1], INT)], axis=0)
    place, weight = (op.reshape(op.gather(one, number, axis=0), shape) for one in (place, weight))
    start = op.slice(place, const([0, 0]), const([1, 1]), const([1, 2]))
    inside = place - start
    around = op.unsqueeze(op.reduce_max(inside, keepdims=0) + 1, const([0]))
    empty = op.expand(const(0.0, DOUBLE), op.concat([blocks, each, around], axis=0))
    weights = op.scatter_elements(empty, inside, weight, axis=2)
    near = op.range(const(0, INT), op.squeeze(around, const([0])), const(1, INT))
    pixel = op.min([op.squeeze(start, const([2])) + op.unsqueeze(near, const([0])), rows_of(photo) - 1])
    lines = op.flatten(photo, axis=1)
    sums = op.matmul(weights, as_type(op.gather(lines, pixel, axis=0), DOUBLE))
    rounded = as_type(clip(sums + 0.5, 0.0, 255.0), np.uint8)
    width = op.shape(lines, start=1, end=2)
    joined = op.slice(op.reshape(rounded, op.concat([const([-1], INT), width], axis=0)), const([0]), count, const([0]))
    return op.reshape(joined, op.concat([count, op.shape(photo, start=1, end=3)], axis=0))


def _bicubic(x: Var) -> Var:
    """Pillow's filter, in its order of operations."""
    x = op.abs(x)
    near = (x * 1.5 - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return where(op.less(x, const(1.0, DOUBLE)), near, where(op.less(x, const(2.0, DOUBLE)), far, 0.0))


def normalized(square: Var, mean: Sequence[float], std: Sequence[float]) -> Var:
    """float32 pixels as an ``ImageEncoder`` normalises them."""
    shaped = [np.array(one, dtype=np.float32)[:, None, None] for one in (mean, std)]
    return (as_type(square, FLOAT) / 255.0 - const(shaped[0])) / const(shaped[1])


def of_rows(photo_rows: Var, rows: Var) -> Var:
    """Which photo is of which row, bool ``(rows, photos)``."""
    number = op.range(const(0, INT), op.squeeze(rows, const([0])), const(1, INT))
    return op.equal(upright(number), op.unsqueeze(photo_rows, const([0])))


def mean_of_rows(features: Var, belongs: Var) -> tuple[Var, Var]:
    """Mean features of each row's photos, float32 ``(rows, d)``, 0 without any; and whether it has one, bool."""
    share = as_type(belongs, DOUBLE)
    count = total(share)
    mean = op.matmul(share, as_type(features, DOUBLE)) / upright(at_least(count, 1.0))
    return as_type(mean, FLOAT), op.greater(count, const(0.0, DOUBLE))


@dataclass(frozen=True, kw_only=True)
class Slots:
    """The photos of each row in slots, as networks take them."""

    features: Var
    """float32 ``(rows, slots, d)``; 0 where there is no photo."""
    mask: Var
    """bool ``(rows, slots)``."""
    columns: Var
    """int64 ``(rows, slots)``."""


def in_slots(inputs: PhotoInputs, features: Var, belongs: Var) -> Slots:
    """Arrange photos; there is at least one slot.

    A photo is found by the number of photos of earlier rows, as photos are in the order of the rows."""
    count = total(as_type(belongs, INT))
    before = op.cumsum(count, const(0, INT), exclusive=1)
    most = at_least(op.reduce_max(op.concat([count, const([1], INT)], axis=0), keepdims=0), 1)
    slot = op.range(const(0, INT), most, const(1, INT))
    mask = op.less(op.unsqueeze(slot, const([0])), upright(count))
    number = where(mask, upright(before) + op.unsqueeze(slot, const([0])), 0)
    # Behind all photos is one of zeros, so that there is something to take where no row has a photo.
    width = op.shape(features, start=1, end=2)
    none = op.expand(const([[0.0]], FLOAT), op.concat([const([1], INT), width], axis=0))
    taken = op.gather(op.concat([features, none], axis=0), number, axis=0)
    taken = taken * as_type(op.unsqueeze(mask, const([2])), FLOAT)
    if inputs.columns is None:
        columns = where(mask, number * 0, 0)
    else:
        columns = where(mask, op.gather(op.concat([inputs.columns, const([0], INT)], axis=0), number, axis=0), 0)
    return Slots(features=taken, mask=mask, columns=columns)
