"""``mixfit report``: the page of a finished run once more."""

from pathlib import Path


def report(run: Path) -> None:
    """Write the report of a finished run again, from the files in its folder alone.

    Parameters
    ----------
    run
        Run folder; the table and its photos may be elsewhere by now, or gone.
    """
    from mixfit.runs.report.page import rewrite_report

    print(f" report  {rewrite_report(run)}")
