"""All kinds of columns: to add one, write a module beside this one and add a line to ``KINDS``."""

from mixfit.data.columns.category import Category
from mixfit.data.columns.date import Date
from mixfit.data.columns.image import Image
from mixfit.data.columns.kind import Kind
from mixfit.data.columns.number import Number
from mixfit.data.columns.ordered import Ordered
from mixfit.data.columns.tags import Tags
from mixfit.data.columns.text import Text

KINDS: tuple[Kind, ...] = (
    Number(),
    Date(),
    Category(),
    Ordered(),
    Text(),
    Tags(),
    Image(),
)
"""In the order of the model inputs. If several kinds match a column, the last one determines its role."""
