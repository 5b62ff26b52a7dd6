"""How a table whose rows are predicted is read: in pieces of whole batches, its columns as those of the training.

In: a file and the schema of a model. Out: ``TablePieces``, the same for all ways to predict."""

from pathlib import Path

from mixfit.config import TextConfig
from mixfit.data.columns.schema import Schema
from mixfit.data.table.pieces import TablePieces, table_pieces

PIECE, PIECE_BYTES = 32_768, 2**26
"""Largest number of rows of a piece, and bytes of a text table that is read as a whole."""


def pieces_to_predict(file: Path, schema: Schema, text: TextConfig | None = None, *, batch: int) -> TablePieces:
    """The pieces of a table.

    Args:
        text: format of a text table, by default as it looks.
        batch: pieces have a multiple of this number of rows, so that each row is predicted in the same batch as with
            the whole table: bit-identical results.
    Raises:
        DataError: the table cannot be read.
    """
    other = ("category", "date", "text", "tags", "image")
    inputs = [column for column in schema.columns if column.name in schema.inputs and column.role not in other]
    return table_pieces(
        file,
        text or TextConfig(),
        most_rows=PIECE,
        most_bytes=PIECE_BYTES,
        multiple=batch,
        learnt=schema.text,
        least=0,
        # Numbers that were not text in training, so that their decimal mark is not known.
        undecided=[column.name for column in inputs if not column.form.decimal],
    )
