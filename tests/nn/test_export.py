"""Export: a program of any model gives what the model gives, for any number of rows and of photos."""

import io
from dataclasses import replace

import pytest
import torch
from model_cases import CASES, Case, inputs, model_of, named
from torch import Tensor, nn

from mixfit.data.batch import Inputs, Mix
from mixfit.errors import ConfigError
from mixfit.nn.export import export_model

PIXELS = next(case for case in CASES if case.photos == "pixels" and case.columns == (3, (4, 3)))
FEATURES = next(case for case in CASES if case.photos == "features" and case.image_columns == 3)
TABLE = next(case for case in CASES if case.photos == "none" and case.columns != (0, ()))


def check(program: torch.export.ExportedProgram, model: nn.Module, *batches: Inputs) -> None:
    run = program.module()
    for xb in batches:
        torch.testing.assert_close(run(**named(xb)), model.eval()(xb), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.long] * (place % 2)) for place, case in enumerate(CASES)], ids=str
)
def test_every_model_is_exported_for_any_number_of_rows_and_photos(case: Case) -> None:
    model = model_of(case)
    program = export_model(model, inputs(case, rows=3, photos=2))
    sizes = ((3, 2), (1, 1), (7, 2), (7, 5), (3, 0))
    check(program, model, *(inputs(case, rows, photos, seed=rows) for rows, photos in sizes))


@pytest.mark.parametrize(("rows", "photos"), [(1, 1), (1, 0), (4, 0)])
def test_a_single_row_or_photo_does_not_bind_the_program(rows: int, photos: int) -> None:
    model = model_of(FEATURES)
    program = export_model(model, inputs(FEATURES, rows, photos))
    check(program, model, inputs(FEATURES, 6, 4))


def test_a_batch_without_photos_gives_a_program_of_the_table_alone() -> None:
    model = model_of(PIXELS)
    without = {"images": None, "image_mask": None, "image_column": None}
    program = export_model(model, replace(inputs(PIXELS), **without))  # type: ignore[arg-type]
    xb = replace(inputs(PIXELS, 7), **without)  # type: ignore[arg-type]
    assert set(named(xb)) == {"numeric", "categorical"}
    check(program, model, xb)


@pytest.mark.parametrize(("precision", "pixels"), [("float32", "uint8"), ("float32", "normalized"), ("bfloat16", "")])
def test_pixels_of_any_kind_and_both_precisions(precision: str, pixels: str) -> None:
    model = model_of(PIXELS, precision=precision)

    def batch(rows: int) -> Inputs:
        xb = inputs(PIXELS, rows)
        assert xb.images is not None
        images = (255 * xb.images).to(torch.uint8) if pixels == "uint8" else xb.images
        return replace(xb, images=images, normalized=pixels == "normalized")

    check(export_model(model, batch(3)), model, batch(7))


def test_what_stands_in_masked_places_has_no_influence_on_the_program() -> None:
    xb = inputs(PIXELS)
    assert xb.images is not None
    assert xb.image_mask is not None
    run = export_model(model_of(PIXELS), xb).module()
    spoiled = xb.images.masked_fill(~xb.image_mask[:, :, None, None, None], torch.nan)
    torch.testing.assert_close(run(**named(replace(xb, images=spoiled))), run(**named(xb)))


def test_model_and_program_do_not_change_each_other() -> None:
    model, xb = model_of(PIXELS).train(), inputs(PIXELS)
    assert model.image is not None
    model.image.pool.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    run = export_model(model, xb).module()
    assert {name: module.training for name, module in model.named_modules()} == modes
    before = run(**named(xb))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(run(**named(xb)), before)


def test_a_saved_program_needs_no_class_of_mixfit() -> None:
    model, xb = model_of(PIXELS), inputs(PIXELS)
    file = io.BytesIO()
    torch.export.save(export_model(model, xb), file)
    assert b"mixfit.data" not in file.getvalue()
    file.seek(0)
    loaded = torch.export.load(file)
    check(loaded, model, inputs(PIXELS, 7, 1))
    assert all(isinstance(value, Tensor) for value in loaded.state_dict.values())


def test_rows_that_cannot_be_exported_are_refused() -> None:
    model, xb = model_of(TABLE), inputs(TABLE)
    with pytest.raises(ConfigError, match="batch without rows cannot be exported: pass at least one row"):
        export_model(model, xb[:0])
    mix = Mix(share=torch.ones(5), own_numeric=xb.numeric, numeric=xb.numeric, categorical=xb.categorical)
    with pytest.raises(ConfigError, match="mixed batch cannot be exported: pass one without MixUp or CutMix"):
        export_model(model, replace(xb, mix=mix))


def test_a_program_wants_the_fields_of_its_batch() -> None:
    fields = named(inputs(FEATURES))
    run = export_model(model_of(FEATURES), inputs(FEATURES)).module()
    del fields["features"]
    with pytest.raises(Exception, match="features"):
        run(**fields)
