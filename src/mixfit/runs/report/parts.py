"""What the parts of a table are called in a report, and the scores of one part."""

from mixfit.runs.report.content import ReportContent, Score, SplitName
from mixfit.runs.report.render import plural

SPLIT_NAMES: dict[SplitName, str] = {"test": "Test", "valid": "Validation", "train": "Training"}
"""The part that nothing was chosen on comes first."""


def split_name(content: ReportContent, split: SplitName) -> str:
    """In a contest each validation row was predicted by models of folds that did not see it."""
    return "Out of fold" if split == "valid" and content.leaderboard else SPLIT_NAMES[split]


def split_heading(content: ReportContent, split: SplitName) -> str:
    """The name with the number of rows."""
    rows = content.rows.get(split)
    return split_name(content, split) + (f", {plural(rows, 'row')}" if rows is not None else "")


def scores_of(content: ReportContent, split: SplitName) -> list[Score]:
    """The scores of one part, in the order of the content."""
    return [score for score in content.scores if score.split == split]


def value_of(content: ReportContent, score: Score) -> float:
    """The headline metric of a score; nan where it is unknown."""
    return score.metrics.get(content.headline_metric, float("nan"))
