"""The kinds of columns there are: a new one is a file beside this one and a line in ``KINDS``."""

from mixfit.data.columns.category import Category
from mixfit.data.columns.date import Date
from mixfit.data.columns.image import Image
from mixfit.data.columns.kind import Kind
from mixfit.data.columns.number import Number
from mixfit.data.columns.tags import Tags
from mixfit.data.columns.text import Text

KINDS: tuple[Kind, ...] = (
    Number(),
    Date(),
    Category(),
    Text(),
    Tags(),
    Image(),
)
"""In the order of the arrays that models get. The role of a column is guessed by the last that takes it for its own."""
