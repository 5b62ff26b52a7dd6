"""Rules about the branches of a mixed model and what joins them."""

from mixfit.training.doctor.finding import Finding
from mixfit.training.doctor.observed import Observed, PhotoColumn

DEAD_SPREAD = 1e-3
"""Photos' vectors that vary by less than this share of their size are one vector: a thousandth of the input of the
fusion is below what weight noise and dropout do to it."""
DEAD_SIZE = 1e-3
"""Vectors of this size or smaller are nothing beside others of size 1; ActivationStats takes it for near zero, too."""
LOUDER = 10.0
"""The table is too loud when its vectors vary so many times as much as the photos' where the two meet: vectors are
built to vary alike, and training changes that by small factors."""
DOMINATION = 4.0
"""... and when it moves the predictions so many times as far, or the fusion has made up for it. Alone it would not do:
photos are often the weaker half, and useless ones are rightly ignored."""
SATURATED = 0.8
"""Share of the values at an end of a gate's range from which on hardly any gradient passes it."""
NEAR_ZERO = 0.9
"""Share of the outputs of an activation of the fusion that are near zero; a healthy ReLU has about half."""
ROWS = 30
"""Validation rows with photos below which nothing is said of the photos' use: chance alone decides there."""
HELP = 0.1
"""Photos whose use may, within two standard errors, be this share of all that the model has learned are not called
useless, unless there is no sign of help at all, the loss being even lower with other rows' photos. Photos that help a
little in few rows are thus mostly spared, and useless ones are named more often than not; a test that always names them
would also blame every weak photo."""
CERTAIN = 1.0
"""... nor are those without which the loss rises by more than this many standard errors."""

DEAD = "dead image branch"
DOMINATED = "the table dominates"
STUCK = "saturated fusion"
USELESS = "photos carry nothing"


def dead_image_branch(seen: Observed) -> list[Finding]:
    """The photos differ, but what the image branch makes of them does not; or it gets no gradient."""
    last = seen.epochs[-1] if seen.epochs else None
    part = next((part for part in seen.parts if part.branch == "photos"), None)
    fix = "Train anew with other first weights or a lower rate of the image branch, and look for a detach() in it."
    if part is not None and part.gradient == 0.0 and seen.steps:
        sentence = f"No gradient reached the image branch in {seen.steps} steps, so it learns nothing."
        return [Finding(name=DEAD, sentence=sentence, evidence={"gradient": 0.0, "steps": seen.steps}, fix=fix)]
    if last is None or last.encodings is None or not any(column.differ for column in last.columns):
        return []
    found = last.encodings
    if found.photos > DEAD_SPREAD * found.photos_size and found.photos_size > DEAD_SIZE:
        return []
    if found.photos_size <= DEAD_SIZE:
        sentence = f"The image branch gives nothing: its vectors have a size of {found.photos_size:.1g}."
    else:
        sentence = (
            f"The image branch gives the same vector for all photos: it varies by {found.photos:.1g} from row to row "
            f"at a size of {found.photos_size:.2g}."
        )
    evidence = {"spread": found.photos, "size": found.photos_size}
    return [Finding(name=DEAD, sentence=sentence, evidence=evidence, fix=fix)]


def dominated_by_table(seen: Observed) -> list[Finding]:
    """The table's vector is so large that the photos' beside it makes little difference."""
    best = seen.best
    if best is None or best.encodings is None or best.table_effect is None:
        return []
    if not any(column.differ for column in best.columns):  # then there is nothing that it could drown
        return []
    table, photos = best.encodings.table, best.encodings.photos
    effect = max(column.effect for column in best.columns)
    if table <= LOUDER * photos or best.table_effect <= DOMINATION * effect:
        return []
    gradients = {} if seen.met is None else {"table gradient": seen.met[0], "photo gradient": seen.met[1]}
    spreads = {"table spread": table, "photo spread": photos}
    effects = {"table effect": best.table_effect, "photo effect": effect}
    return [
        Finding(
            name=DOMINATED,
            sentence=f"The table dominates the fusion {_ratio(table, photos)} to 1: so many times as much do its "
            f"vectors vary as the photos'. Predictions move {_ratio(best.table_effect, effect)} times as far when rows "
            "get each other's cells as when they get each other's photos.",
            evidence=spreads | effects | gradients,
            fix="Give both branches unit variance first (start_well(model, data, scale=['branches'])), or train with "
            "auxiliary heads.",
        )
    ]


def _may_help(column: PhotoColumn, learned: float) -> bool:
    certain = column.gain > CERTAIN * column.error
    return column.gain >= 0 and (certain or column.gain + 2 * column.error > HELP * learned)


def _ratio(a: float, b: float) -> str:
    return f"{a / b:,.0f}" if b else "infinitely many"


def saturated_fusion(seen: Observed) -> list[Finding]:
    """The layer whose units are stuck most."""
    stuck = [layer for layer in seen.fusion if layer.saturated is not None and layer.saturated > SATURATED]
    silent = [layer for layer in seen.fusion if layer.activation and layer.near_zero > NEAR_ZERO]
    if stuck:
        worst = max(stuck, key=lambda layer: layer.saturated or 0.0)
        share = worst.saturated or 0.0
        sentence = f"{share:.0%} of the values of {worst.layer} are at an end of their range, where no gradient passes."
    elif silent:
        worst = max(silent, key=lambda layer: layer.near_zero)
        share = worst.near_zero
        sentence = f"{share:.0%} of the values of {worst.layer} are near zero, and {worst.dead_units:.0%} of its units."
    else:
        return []
    return [
        Finding(
            name=STUCK,
            sentence=sentence,
            evidence={"share": share, "dead units": worst.dead_units},
            fix="Lower the learning rate, start the layer with smaller weights, or put a LayerNorm before it.",
        )
    ]


def useless_photos(seen: Observed) -> list[Finding]:
    """Columns whose photos can be dealt out to other rows without harm, of a model that has learned something."""
    best = seen.best
    if best is None or not seen.learned or best.constant_loss is None or best.valid_loss is None:
        return []
    learned, found = best.constant_loss - best.valid_loss, []
    for place, column in enumerate(best.columns):
        evidence = {"loss rise": column.gain, "standard error": column.error, "learned": learned}
        name = seen.column_name(place)
        fix = f"Check the files of {name}, and compare with a training without it."
        if not column.differ:
            sentence = f"All photos of {name} are the same picture, so they carry nothing."
        elif column.rows < ROWS or _may_help(column, learned):
            continue
        else:
            sentence = (
                f"The photos of {name} carry nothing: when validation rows get each other's, the loss changes by "
                f"{column.gain:+.2g} +- {column.error:.1g}, of {learned:.2g} that the model has learned."
            )
        found.append(Finding(name=USELESS, sentence=sentence, evidence=evidence, fix=fix))
    return found
