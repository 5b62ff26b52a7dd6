"""How many test functions state a property, and how many an example?

A property holds for what hypothesis draws (``@given``), or for every implementation of an interface: the test, or a
fixture of its file that it uses, is parametrised over a collection that has them all. ``IMPLEMENTATIONS`` lists these
collections by hand; a part of one does not count, nor do lists of inputs, of faults, of events or of data sets. A
function counts once, however many cases it has.
Run: python benchmarks/count_tests.py [--list]"""

import ast
import sys
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
IMPLEMENTATIONS = {
    "data/test_augment.py": {"PIXEL"},
    "data/test_images.py": {"['squash', 'center', 'pad']"},
    "data/test_mix.py": {"MIXES"},
    "data/test_samplers.py": {"ALL"},
    "data/test_types.py": {"TYPES + ENCODED"},
    "data/test_table_writer.py": {"EXTENSIONS"},
    "evaluation/test_bootstrap.py": {"CLASSIFICATION_METRICS", "[*REGRESSION_METRICS, R2_LOG]"},
    "evaluation/test_explain.py": {"KINDS"},
    "evaluation/test_photo_heat.py": {"['grad_cam', 'gradients', 'smooth', 'integrated']"},
    "diagnostics/test_doctor.py": {"['concat', 'gated', 'film', 'attention', 'late']"},
    "faults/test_faults_image_pixels.py": {"['squash', 'center', 'pad']"},
    "faults/test_faults_table_files.py": {"['feather', 'parquet', 'jsonl', 'csv']"},
    "hooks/test_in_place.py": {"IN_PLACE"},
    "nn/test_compile.py": {"CASES", "PHOTO_CASES"},
    "nn/test_contract.py": {"CASES", "PHOTO_CASES"},
    "nn/test_export.py": {"CASES", "PHOTO_CASES"},
    "nn/test_fusions.py": {"NAMES"},
    "nn/test_heat.py": {"CASES", "PHOTO_CASES", "HEATS.values()"},
    "nn/test_table_encoders.py": {"ENCODERS", "EMBEDDINGS"},
    "nn/test_tabm.py": {"['tabm', 'mini']"},
    "test_explaining.py": {"['number', 'logarithm', 'probability']"},
    "test_seeding.py": {"CASES"},
    "test_weights.py": {"STATISTICS"},
    "training/test_averaging.py": {"KINDS"},
    "training/test_callback_contract.py": {"FACTORIES"},
    "training/test_choose.py": {"OPTIMIZERS", "LOSSES_OF_CLASSES", "LOSSES_OF_NUMBERS"},
    "training/test_loss.py": {"EVERY", "CLASSES", "NUMBERS"},
    "training/test_optimizer.py": {"KINDS", "PAIRS"},
    "training/test_resume.py": {"OPTIMIZERS"},
}
"""File -> what its tests are parametrised over, as it is written there."""


def main(*, named: bool) -> None:
    """Print the counts, and with ``named`` each property test with what makes it one."""
    counts: Counter[str] = Counter()
    for path in sorted(TESTS.rglob("test_*.py")):
        place = path.relative_to(TESTS).as_posix()
        for name, kind in kinds_of(ast.parse(path.read_text(encoding="utf-8")), IMPLEMENTATIONS.get(place, set())):
            counts[kind] += 1
            if named and kind != "examples":
                print(f"{kind:15} {place}::{name}")
    total = counts.total()
    properties = total - counts["examples"]
    print(f"{total} test functions: " + ", ".join(f"{count} {kind}" for kind, count in counts.most_common()))
    print(f"{properties} state a property, {properties / total:.1%}")


def kinds_of(module: ast.Module, everything: set[str]) -> list[tuple[str, str]]:
    """Each test function of a file, and what it is.

    Args:
        everything: the collections of all implementations in this file."""
    functions = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)]
    aliases = {
        target.id: node.value
        for node in module.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    over_all = {
        function.name
        for function in functions
        if any(_over_all(_call(decorator, aliases), everything) for decorator in function.decorator_list)
    }
    found = []
    for function in functions:
        if not function.name.startswith("test_"):
            continue
        calls = [_call(decorator, aliases) for decorator in function.decorator_list]
        used = {argument.arg for argument in function.args.args}
        if any(call is not None and ast.unparse(call.func) == "given" for call in calls):
            kind = "by hypothesis"
        elif function.name in over_all or used & over_all:
            kind = "implementations"
        else:
            kind = "examples"
        found.append((function.name, kind))
    return found


def _call(decorator: ast.expr, aliases: dict[str, ast.expr]) -> ast.Call | None:
    if isinstance(decorator, ast.Name):
        decorator = aliases.get(decorator.id, decorator)
    return decorator if isinstance(decorator, ast.Call) else None


def _over_all(call: ast.Call | None, everything: set[str]) -> bool:
    """Whether a decorator parametrises a test or a fixture over all implementations."""
    match call and ast.unparse(call.func):
        case "pytest.mark.parametrize":
            return ast.unparse(call.args[1]) in everything
        case "pytest.fixture":
            return any(word.arg == "params" and ast.unparse(word.value) in everything for word in call.keywords)
        case _:
            return False


if __name__ == "__main__":
    main(named="--list" in sys.argv[1:])
