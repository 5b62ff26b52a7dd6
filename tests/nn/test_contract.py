"""What holds for every model, whichever encoders and fusion it is made of; the cases are in ``model_cases.py``."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from model_cases import CASES, OPTIONS, PHOTO_CASES, SIZE, Case, inputs, model_of
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mixfit.data.batch import Inputs

every_model = pytest.mark.parametrize("case", CASES, ids=str)
every_model_of_photos = pytest.mark.parametrize("case", PHOTO_CASES, ids=str)
every_model_of_texts = pytest.mark.parametrize("case", [case for case in CASES if case.texts], ids=str)


def test_every_pair_of_options_is_in_a_case() -> None:
    for a, b in itertools.combinations(OPTIONS, 2):
        met = {(getattr(case, a), getattr(case, b)) for case in CASES}
        assert met == set(itertools.product(OPTIONS[a], OPTIONS[b]))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def of_photos(xb: Inputs, function: Any) -> Inputs:
    """``function`` of all fields of photos that are there."""
    names = [name for name in ("images", "features", "image_mask", "image_column") if getattr(xb, name) is not None]
    return replace(xb, **{name: function(getattr(xb, name)) for name in names})


def spoiled(xb: Inputs, value: float) -> Inputs:
    """Something else in all masked places."""
    assert xb.image_mask is not None
    changed = {}
    for name in ("images", "features"):
        tensor = getattr(xb, name)
        if tensor is not None:
            changed[name] = tensor.clone()
            changed[name][~xb.image_mask] = value
    return replace(xb, **changed)  # type: ignore[arg-type]


@every_model
def test_a_row_does_not_see_its_neighbours(case: Case) -> None:
    model, xb = model_of(case).eval(), inputs(case)
    together = model(xb)
    assert together.shape == ((5,) if case.outputs == 1 else (5, case.outputs))
    close(together, torch.cat([model(xb[[row]]) for row in range(5)]))
    if case.photos != "none" or case.texts or case.columns != (0, ()):
        assert not torch.allclose(together[1:], together[:1], atol=1e-4), "rows that look alike would hide mistakes"


@every_model_of_photos
def test_masked_photos_have_no_influence_not_even_nan(case: Case) -> None:
    model, xb = model_of(case).eval(), inputs(case)
    expected = model(xb)
    close(model(spoiled(xb, torch.nan)), expected)
    close(model(spoiled(xb, 1e6)), expected)


@every_model_of_photos
def test_masked_photos_do_not_spoil_training(case: Case) -> None:
    model, xb = model_of(case).train(), inputs(case)
    learn = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.numel()]
    clean, dirty = (torch.autograd.grad(model(batch).square().sum(), learn) for batch in (xb, spoiled(xb, torch.nan)))
    for found, expected in zip(dirty, clean, strict=True):
        close(found, expected)


@every_model_of_photos
def test_the_order_of_photos_and_padding_do_not_matter(case: Case) -> None:
    model, xb = model_of(case).eval(), inputs(case)
    expected = model(xb)
    close(model(of_photos(xb, lambda tensor: tensor[:, [2, 0, 1]])), expected)
    close(model(of_photos(xb, lambda tensor: torch.cat([tensor, torch.zeros_like(tensor[:, :2])], dim=1))), expected)


@every_model_of_photos
def test_a_row_without_photo_is_predicted_from_the_learned_vector(case: Case) -> None:
    model, xb = model_of(case).eval(), inputs(case)
    assert model.image is not None
    assert xb.image_mask is not None
    all_masked = model(replace(xb, image_mask=torch.zeros_like(xb.image_mask)))
    close(model(of_photos(xb, lambda tensor: tensor[:, :0])), all_masked)  # no place for a photo
    close(model(replace(xb, images=None, features=None, image_mask=None, image_column=None)), all_masked)
    before = model(xb)
    close(all_masked[0], before[0])
    with torch.no_grad():
        model.image.pool.no_photo.add_(torch.randn_like(model.image.pool.no_photo))
    after = model(xb)
    assert not torch.allclose(after[0], before[0], atol=1e-4), "the first row has no photo"
    close(after[1:], before[1:])


def spoiled_texts(xb: Inputs, value: float) -> Inputs:
    """Something else in place of every text that is not there."""
    assert xb.text is not None
    assert xb.text_mask is not None
    return replace(xb, text=xb.text.masked_fill(~xb.text_mask[:, :, None], value))


@every_model_of_texts
def test_masked_texts_have_no_influence_not_even_nan(case: Case) -> None:
    model, xb = model_of(case).eval(), inputs(case)
    assert xb.text_mask is not None
    assert 0 < xb.text_mask.sum() < xb.text_mask.numel()
    expected = model(xb)
    assert torch.equal(model(spoiled_texts(xb, torch.nan)), expected)
    assert torch.equal(model(spoiled_texts(xb, 1e6)), expected)
    model.train()
    learn = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.numel()]
    batches = (xb, spoiled_texts(xb, torch.nan))
    clean, dirty = (torch.autograd.grad(model(batch).square().sum(), learn) for batch in batches)
    for found, expected in zip(dirty, clean, strict=True):
        close(found, expected)


@every_model_of_texts
def test_a_row_without_text_is_predicted_from_the_learned_vector(case: Case) -> None:
    model, xb = model_of(case).eval(), inputs(case)
    assert model.text is not None
    assert xb.text_mask is not None
    all_masked = model(replace(xb, text_mask=torch.zeros_like(xb.text_mask)))
    close(model(replace(xb, text=None, text_mask=None)), all_masked)
    before = model(xb)
    close(all_masked[0], before[0])
    assert not torch.allclose(all_masked[1:], before[1:], atol=1e-4)
    with torch.no_grad():
        model.text.no_text.add_(torch.randn_like(model.text.no_text))
    after = model(xb)
    assert not torch.allclose(after[0], before[0], atol=1e-4), "the first row has no text"
    close(after[1:], before[1:])


@every_model_of_photos
def test_photos_and_the_table_both_count(case: Case) -> None:
    model, xb = model_of(case).eval(), inputs(case)
    changed = [of_photos(xb, lambda tensor: tensor.flip(0) if tensor.is_floating_point() else tensor)]
    if case.columns[0]:
        changed.append(replace(xb, numeric=xb.numeric + 1))
    if case.columns[1]:
        changed.append(replace(xb, categorical=(xb.categorical + 1) % 3))
    if case.image_columns > 1 and xb.image_column is not None:
        changed.append(replace(xb, image_column=(xb.image_column + 1) % case.image_columns))
    if xb.text is not None:
        changed.append(replace(xb, text=xb.text + 1))
    for other in changed:
        assert (model(other)[1:] - model(xb)[1:]).abs().max() > 1e-5


@every_model
def test_gradients_reach_every_parameter_that_learns_and_no_other(case: Case) -> None:
    model, xb = model_of(case).train(), inputs(case, rows=12)
    model(xb).square().sum().backward()
    learn = {name: p for name, p in model.named_parameters() if p.requires_grad and p.numel()}
    assert [name for name, p in learn.items() if p.grad is None or not p.grad.any()] == []
    assert [name for name, p in model.named_parameters() if p.grad is not None and not p.requires_grad] == []
    if case.photos == "features":
        assert model.image is not None
        assert not any(parameter.requires_grad for parameter in model.image.backbone.parameters())


@every_model
def test_weights_saved_and_loaded_give_identical_outputs(case: Case, tmp_path: Path) -> None:
    model, xb = model_of(case), inputs(case)
    model.train()(xb)  # moves the statistics of BatchNorm, which are to be saved, too
    # The format knows no channels_last; the loaded model has its own order of numbers again.
    path = tmp_path / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    other = model_of(case, seed=1).eval()
    expected = model.eval()(xb)
    assert not torch.equal(other(xb), expected)
    other.load_state_dict(load_file(path))
    assert torch.equal(other(xb), expected)


@every_model
@pytest.mark.parametrize("photo", [False, True])
def test_a_batch_of_one_can_be_trained_on(case: Case, photo: bool) -> None:
    model, xb = model_of(case).train(), inputs(case, rows=1, photos=1)
    if xb.image_mask is not None:
        xb = replace(xb, image_mask=torch.full_like(xb.image_mask, fill_value=photo))
    output = model(xb)
    output.sum().backward()
    assert output.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert model.eval()(xb).isfinite().all()


@every_model_of_photos
def test_statistics_of_a_frozen_backbone_stay_still_in_training(case: Case) -> None:
    model, xb = model_of(case).train(), inputs(case)
    assert model.image is not None
    norms = [module for module in model.image.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    if case.photos == "features":  # the same network, handed pixels
        xb = replace(xb, features=None, images=torch.rand(5, 3, 3, SIZE, SIZE))
    before = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    model(xb)
    moved = [not torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True)]  # type: ignore[arg-type]
    assert all(moved) if case.photos == "pixels" else not any(moved)


class Unordered(TorchDispatchMode):
    """Records the operations that several threads add up in the order in which they come to it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_index = func.overloadpacket in (torch.ops.aten.index_put_, torch.ops.aten.index_put)
        by_index = by_index or func.overloadpacket in (
            torch.ops.aten._index_put_impl_,
            torch.ops.aten._unsafe_index_put,
        )
        if (by_index and len(args) > 3 and args[3]) or func.overloadpacket is torch.ops.aten.put_:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@every_model
def test_no_gradient_is_added_up_in_the_order_of_threads(case: Case) -> None:
    model, xb = model_of(case).train(), inputs(case)
    with Unordered() as unordered:
        torch.autograd.backward(model(xb).square().sum())
    assert unordered.found == []


def test_an_unordered_sum_is_seen() -> None:
    weight = torch.zeros(2, 3, requires_grad=True)
    with Unordered() as unordered:
        torch.autograd.backward(weight[torch.tensor([0, 1, 1])].sum())
    assert unordered.found
