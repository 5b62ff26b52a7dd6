"""The plan of steps of the network of a table, from the number of training rows alone."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mixfit.models.network import tabm_batch_size, tabm_epochs

ROWS = st.integers(1, 10**7)


@settings(deadline=None)
@given(rows=ROWS, more=ROWS, most=st.integers(1, 60))
def test_more_rows_mean_no_more_epochs_and_no_smaller_batches(rows: int, more: int, most: int) -> None:
    rows, more = min(rows, more), max(rows, more)
    assert tabm_epochs(most, more) <= tabm_epochs(most, rows) <= most
    assert 16 <= tabm_batch_size(rows) <= tabm_batch_size(more) <= 256
    assert tabm_epochs(most, more) >= min(most, 3)


def test_a_small_table_is_seen_as_often_as_allowed() -> None:
    assert [tabm_epochs(20, rows) for rows in (1, 400, 2_500, 16_000, 10**6)] == [20, 20, 20, 6, 3]
    assert [tabm_batch_size(rows) for rows in (1, 400, 780, 2_040, 16_000, 10**6)] == [16, 16, 32, 64, 128, 256]
