"""Does the plan of a run hold? Planned and measured seconds, the share of explanations, and runs with a time limit.

For each table a whole run, in a process of its own on one thread. Other processes slow down the processor, too, so a
fixed small task is timed beside each run, and its seconds are shown at the pace of the machine on which the costs were
fitted (``fit_costs.py``). With a limit, the seconds of the clock are shown, which other processes lengthen.
Run: MIXFIT_DATA=... python benchmarks/study_budget.py plan [NAME ...]
     MIXFIT_DATA=... python benchmarks/study_budget.py limit 60s [NAME ...]"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fit_costs import REFERENCE, Pace, table

TABLES: dict[str, dict[str, Any]] = {
    "300 x 3": {"rows": 300, "columns": 3, "seed": 1},
    "1,000 x 10": {"rows": 1_000, "columns": 10, "seed": 1},
    "3,000 x 30": {"rows": 3_000, "columns": 30, "levels": 300, "seed": 1},
    "10,000 x 30": {"rows": 10_000, "columns": 30, "levels": 300, "seed": 1},
    "30,000 x 10": {"rows": 30_000, "columns": 10, "levels": 100, "seed": 1},
    "100,000 x 6": {"rows": 100_000, "columns": 6, "levels": 100, "seed": 1},
    "1,000 x 200": {"rows": 1_000, "columns": 200, "seed": 1},
    "500 x 500": {"rows": 500, "columns": 500, "seed": 1},
    "2,000 x 12, 2 classes": {"rows": 2_000, "columns": 12, "classes": 2, "seed": 1},
    "4,000 x 12, 20 classes": {"rows": 4_000, "columns": 12, "classes": 20, "seed": 1},
    "5,000 x 8, 2,000 levels": {"rows": 5_000, "columns": 8, "levels": 2_000, "seed": 1},
    "1,000 x 5, texts": {"rows": 1_000, "columns": 5, "words": 40, "seed": 1},
    "houses": {"data": "houses", "target": "price"},
    "leaves": {"data": "leaf99", "target": "species"},
    "movies": {"data": "movies", "target": "imdb_rating"},
    "x-rays": {"data": "covid_xray", "target": "covid19"},
}


def measure(name: str, limit: str | None) -> dict[str, Any]:
    """One run in this process."""
    import torch
    from rich.console import Console

    from mixfit.auto import preset_run, recipe
    from mixfit.config import DataConfig, TrainConfig

    torch.set_num_threads(1)
    spec, plans, explained, pace = dict(TABLES[name]), list[Any](), [0.0], Pace()
    real_plan = preset_run.plan_run
    results: Any = sys.modules["mixfit.runs.results"]
    real_explanation = results.explanation_of

    def plan_run(*args: Any, **kwargs: Any) -> Any:
        plans.append(real_plan(*args, **kwargs))
        return plans[-1]

    def explanation_of(*args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        try:
            return real_explanation(*args, **kwargs)
        finally:
            explained[0] += time.process_time() - started

    preset_run.plan_run, results.explanation_of = plan_run, explanation_of
    roles = {"text": "text"} if "words" in spec else {}
    with tempfile.TemporaryDirectory() as folder:
        if "data" in spec:
            source, target = Path(os.environ["MIXFIT_DATA"]) / spec["data"] / "table.csv", spec["target"]
        else:
            source, target = Path(folder) / "table.csv", "y"
            table(**spec).to_csv(source, index=False)
        before = pace.now()
        clock, started = time.monotonic(), time.process_time()
        run = recipe.fit(
            source,
            target=target,
            out=Path(folder) / "runs",
            data=DataConfig(roles=roles, cache_gb=0.0),
            train=TrainConfig(preset=os.environ.get("STUDY_PRESET", "quick"), time=limit),  # type: ignore[arg-type]
            console=Console(quiet=True),
        )
        took, wall = time.process_time() - started, time.monotonic() - clock
        pace.due = 0.0
        slow = (before + pace.now()) / 2
    plan = plans[0]
    return {
        "planned": plan.seconds + plan.photo_seconds,
        "measured": took * REFERENCE / slow,
        "raw": took,
        "wall": wall,
        "explained": explained[0] / took,
        "models": len(run.result.contest.leaderboard) if run.result.contest else 0,
        "left out": [*plan.notes, *plan.plan.left_out, *plan.plan.shortened],
    }


def main(args: list[str]) -> None:
    """Measure each table in a process of its own."""
    if args[0] == "--one":
        print(json.dumps(measure(args[1], None if args[2] == "none" else args[2])))
        return
    mode, *names = args
    limit = names.pop(0) if mode == "limit" else "none"
    print(
        f"{'table':<26}{'planned':>9}{'measured':>10}{'ratio':>7}{'clock':>8}{'explained':>11}  left out or shortened"
    )
    within, count = 0, 0
    for name in names or TABLES:
        called = [sys.executable, __file__, "--one", name, limit]
        text = subprocess.run(called, check=True, stdout=subprocess.PIPE, text=True).stdout
        found = json.loads(text.splitlines()[-1])
        ratio = found["planned"] / found["measured"]
        within, count = within + (0.5 <= ratio <= 2), count + 1
        said = f"{found['planned']:>9.1f}{found['measured']:>10.1f}{ratio:>7.2f}{found['wall']:>8.1f}"
        print(f"{name:<26}{said}{found['explained']:>11.1%}  {'; '.join(found['left out'])}", flush=True)
    print(f"{within} of {count} plans are within a factor of 2")


if __name__ == "__main__":
    main(sys.argv[1:])
