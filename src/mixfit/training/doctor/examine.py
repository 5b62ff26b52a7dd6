"""A short examination of a learner: a search for the rate and a few watched epochs, after which all is as it was."""

import copy
from contextlib import suppress
from typing import TYPE_CHECKING

from mixfit.errors import Diverged
from mixfit.training.callbacks.doctor import Doctor
from mixfit.training.doctor.finding import Finding
from mixfit.training.lr_find import RateSearch
from mixfit.training.preserve import preserved

if TYPE_CHECKING:
    from mixfit.training.learner import Learner

USUAL_RATE = 1e-3
SEARCH_STEPS = 100


def examine(learner: "Learner", *, epochs: int, lr: float | None) -> tuple[Finding, ...]:
    """See ``Learner.doctor``."""
    watched = next((one for one in learner.callbacks if isinstance(one, Doctor) and one.watched), None)
    if watched is not None:
        return watched.findings()
    search = find_quietly(learner)
    found = () if search is None else search.suggestions
    doctor = Doctor(every=1, search=search, photo_columns=photo_columns(learner))
    trial = copy.copy(learner)
    trial.callbacks = ()
    with preserved(learner.model, (learner.data.train, learner.data.valid)):
        with suppress(Diverged):  # what was seen until then is what the findings are from
            trial.fit(epochs, lr or (max(found) if found else USUAL_RATE), callbacks=[doctor])
        return doctor.findings()


def prepare_doctors(learner: "Learner") -> None:
    """Tell each ``Doctor`` among the callbacks the names of the image columns and what a search for the rate finds.

    The search leaves no trace."""
    for one in learner.callbacks:
        if isinstance(one, Doctor):
            one.photo_columns = one.photo_columns or photo_columns(learner)
            one.search = one.search or find_quietly(learner)


def find_quietly(learner: "Learner", steps: int = SEARCH_STEPS) -> RateSearch | None:
    """The search for the rate; None of a model with which there is nothing to search."""
    try:
        return learner.lr_find(steps=steps)
    except Diverged:
        return None


def photo_columns(learner: "Learner") -> tuple[str, ...]:
    """Names of the image columns, if the data say them."""
    schema = getattr(learner.data, "schema", None)
    return () if schema is None else tuple(schema.names("image"))
