"""No hook stays, however its block is left; and each is called where and as often as it should be."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from mixfit.errors import ConfigError
from mixfit.hooks.hook import Call, Event, Hook, Hooks, Layers, find_layer, select_layers
from mixfit.training.callback import CancelBatch, CancelEpoch, CancelFit, CancelTrain

EVENTS: tuple[Event, ...] = ("forward", "pre-forward", "backward")
every_event = pytest.mark.parametrize("event", EVENTS)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 1))


def hooks_on(model: nn.Module) -> int:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    names += ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called")
    return sum(len(getattr(module, name)) for module in model.modules() for name in names)


def nothing(_call: Call) -> None:
    pass


def by_end(model: nn.Module, hooks: Callable[[], Hook | Hooks]) -> None:
    with hooks():
        assert hooks_on(model)


def by_return(model: nn.Module, hooks: Callable[[], Hook | Hooks]) -> int:
    with hooks():
        return hooks_on(model)


def by_break(model: nn.Module, hooks: Callable[[], Hook | Hooks]) -> None:
    for _ in range(3):
        with hooks():
            assert hooks_on(model)
            break


def by_error(kind: type[BaseException]) -> Callable[[nn.Module, Callable[[], Hook | Hooks]], None]:
    def leave(model: nn.Module, hooks: Callable[[], Hook | Hooks]) -> None:
        def inside() -> None:
            with hooks():
                assert hooks_on(model)
                raise kind

        with pytest.raises(kind):
            inside()

    return leave


def by_error_in_the_model(model: nn.Module, hooks: Callable[[], Hook | Hooks]) -> None:
    with pytest.raises(RuntimeError), hooks():
        model(torch.ones(2, 99))


def by_error_in_the_hook(model: nn.Module, hooks: Callable[[], Hook | Hooks]) -> None:
    def fail(call: Call) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), hooks(), Hook(model, fail):
        model(torch.ones(2, 3))


def _generator(hooks: Callable[[], Hook | Hooks]) -> Iterator[int]:
    with hooks():
        yield 1
        yield 2


def by_closing(model: nn.Module, hooks: Callable[[], Hook | Hooks]) -> None:
    steps = _generator(hooks)
    next(steps)
    assert hooks_on(model)
    steps.close()  # type: ignore[attr-defined]


def by_forgetting_the_generator(model: nn.Module, hooks: Callable[[], Hook | Hooks]) -> None:
    steps = _generator(hooks)
    next(steps)
    assert hooks_on(model)
    del steps


def by_an_end_of_the_generator(model: nn.Module, hooks: Callable[[], Hook | Hooks]) -> None:
    assert sum(_generator(hooks)) == 3


def by_throwing_into_the_generator(model: nn.Module, hooks: Callable[[], Hook | Hooks]) -> None:
    steps = _generator(hooks)
    next(steps)
    with pytest.raises(CancelFit):
        steps.throw(CancelFit)  # type: ignore[attr-defined]


WAYS = {
    function.__name__: function
    for function in (
        by_end,
        by_return,
        by_break,
        by_error_in_the_model,
        by_error_in_the_hook,
        by_closing,
        by_forgetting_the_generator,
        by_an_end_of_the_generator,
        by_throwing_into_the_generator,
    )
} | {
    kind.__name__: by_error(kind)
    for kind in (CancelBatch, CancelTrain, CancelEpoch, CancelFit, ZeroDivisionError, KeyboardInterrupt, SystemExit)
}


@every_event
@pytest.mark.parametrize("way", WAYS)
def test_no_hook_stays_however_the_block_is_left(way: str, event: Event) -> None:
    model = network()
    for make in (lambda: Hooks(model, nothing, event=event), lambda: Hook(model[0], nothing, event)):
        WAYS[way](model, make)  # type: ignore[operator]
        assert hooks_on(model) == 0


@every_event
def test_hooks_of_others_stay(event: Event) -> None:
    model, seen = network(), []
    handle = model[0].register_forward_hook(lambda *_: seen.append(1))
    with pytest.raises(CancelFit), Hooks(model, nothing, event=event):
        raise CancelFit
    model(torch.ones(2, 3))
    assert seen == [1]
    handle.remove()


def test_a_failure_while_they_are_placed_leaves_none() -> None:
    class Refusing(nn.Linear):
        def register_forward_hook(self, *_: object, **__: object) -> None:  # type: ignore[override]
            raise RuntimeError("no hooks here")

    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), Refusing(3, 3))
    hooks = Hooks(model, nothing)
    with pytest.raises(RuntimeError, match="no hooks here"):
        hooks.place()
    assert hooks_on(model) == 0
    assert not hooks.placed


def test_used_again_and_inside_itself_it_is_called_once_a_call() -> None:
    model, seen = network(), []
    hooks = Hooks(model, lambda call: seen.append(call.name))
    names = ["0", "1", "2.0", "2.1", "3"]
    for _ in range(2):
        with hooks:
            with hooks:
                model(torch.ones(2, 3))
            assert seen == names
            model(torch.ones(2, 3))  # the inner block has not taken them off
        assert seen == names * 2
        model(torch.ones(2, 3))
        assert seen == names * 2
        seen.clear()


def test_placed_without_a_block_they_are_removed_at_once_and_as_often_as_one_likes() -> None:
    model = network()
    hooks = Hooks(model, nothing)
    hooks.place()
    hooks.place()
    assert hooks.placed
    hooks.remove()
    hooks.remove()
    assert hooks_on(model) == 0
    assert not hooks.placed


def test_two_on_one_module_are_called_in_the_order_of_their_blocks() -> None:
    model, seen = network(), []
    with Hooks(model, lambda call: seen.append("first"), "0") as first:
        with Hook(model[0], lambda call: seen.append("second")):
            model(torch.ones(2, 3))
        model(torch.ones(2, 3))
        assert seen == ["first", "second", "first"]
        assert first.layers == {"0": model[0]}


def test_a_call_shows_what_goes_in_and_what_comes_out() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, *, scale: float) -> Tensor:
            return x * scale

    module, seen = Scaled(), []
    x = torch.ones(2, 3, requires_grad=True)
    with Hook(module, seen.append, "pre-forward"), Hook(module, seen.append, name="mine"):
        module(x, scale=3.0)
    before, after = seen
    assert (before.name, before.output, before.keywords) == ("", None, {"scale": 3.0})
    assert (after.name, after.module, after.keywords) == ("mine", module, {"scale": 3.0})
    assert after.inputs == (x,)
    assert torch.equal(after.output, 3 * x)


def test_backward_shows_the_gradients_that_autograd_has() -> None:
    model, x = network(), torch.randn(5, 3, requires_grad=True)
    seen: dict[str, Call] = {}
    with Hooks(model, lambda call: seen.update({call.name: call}), nn.Linear, "backward"):
        y = model(x)
        y.square().sum().backward()
    inside = model[0](x)
    (dx, d_inside) = torch.autograd.grad(model[1:](inside).square().sum(), (x, inside))
    torch.testing.assert_close(seen["0"].inputs[0], dx)
    torch.testing.assert_close(seen["0"].output[0], d_inside)
    assert list(seen) == ["3", "2.0", "0"]


def test_what_is_returned_takes_the_place() -> None:
    model, x = network(), torch.randn(5, 3, requires_grad=True)
    with Hook(model[0], lambda call: torch.zeros_like(call.output)):
        zero = model(x)
    torch.testing.assert_close(zero, model[1:](torch.zeros(5, 4)))
    with Hook(model[0], lambda call: (2 * call.inputs[0],), "pre-forward"):
        doubled = model(x)
    torch.testing.assert_close(doubled, model(2 * x))
    with Hook(model[0], lambda call: (torch.full_like(x, 7.0),), "backward"):
        model(x).sum().backward()
    assert x.grad is not None
    assert bool((x.grad == 7).all())


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (None, ["0", "1", "2.0", "2.1", "3"]),
        ("2", ["2"]),
        ("", [""]),
        (nn.ReLU, ["1", "2.1"]),
        (["3", nn.ReLU, "1"], ["1", "2.1", "3"]),
        (lambda name, module: name.startswith("2."), ["2.0", "2.1"]),
    ],
)
def test_layers_are_chosen_by_name_type_or_predicate(layers: Layers | None, names: list[str]) -> None:
    assert list(select_layers(network(), layers)) == names


def test_layers_are_chosen_as_modules() -> None:
    model = network()
    assert list(select_layers(model, [model[3], model[0]])) == ["0", "3"]
    with pytest.raises(ConfigError, match=r"This Linear is not a layer of this Sequential\."):
        select_layers(model, nn.Linear(1, 1))


def test_a_layer_that_is_not_there_is_told_with_those_that_are() -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
    with pytest.raises(ConfigError, match=r"no layer 'encodr'\. Did you mean 'encoder'\? layers: encoder, head$"):
        Hooks(model, nothing, "encodr")
    with pytest.raises(ConfigError, match=r"No layer of ModuleDict was selected; its layers are encoder, head\."):
        Hooks(model, nothing, nn.Conv2d)
    with pytest.raises(ConfigError, match=r"layers: 0, 1, 2, .*, 19, and 10 more$"):
        find_layer(nn.Sequential(*(nn.ReLU() for _ in range(30))), "x")


def test_a_shared_module_has_all_its_names_and_one_hook() -> None:
    relu, seen = nn.ReLU(), []
    model = nn.Sequential(nn.Linear(3, 3), relu, nn.Linear(3, 3), relu)
    assert find_layer(model, "3") is relu
    with Hooks(model, lambda call: seen.append(call.name), ["1", "3"]):
        model(torch.ones(1, 3))
    assert seen == ["1", "1"]
