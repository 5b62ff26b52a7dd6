"""``mixfit report``: rewrite the report of a finished run."""

from pathlib import Path


def report(run: Path) -> None:
    """Rewrite the report of a finished run from the files in its folder.

    Parameters
    ----------
    run
        Run folder; the table and its photos are not needed.
    """
    from mixfit.runs.report.page import rewrite_report

    print(f" report  {rewrite_report(run)}")
