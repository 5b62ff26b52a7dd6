"""Optimisers straight from their papers: one parameter after the other, nothing shared with ours."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Plain:
    """Keeps a dictionary for each parameter and calls ``one`` for each that has a gradient."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, **settings: Any) -> None:
        self.parameters, self.lr, self.settings = list(parameters), lr, settings
        self.states: list[dict[str, Any]] = [{"t": 0} for _ in self.parameters]

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for parameter, state in zip(self.parameters, self.states, strict=True):
            if parameter.grad is not None:
                state["t"] += 1
                parameter.copy_(self.one(parameter.clone(), parameter.grad.clone(), state))

    def one(self, w: Tensor, g: Tensor, state: dict[str, Any]) -> Tensor:
        raise NotImplementedError

    def setting(self, name: str, default: Any) -> Any:
        return self.settings.get(name, default)


def adam(g: Tensor, state: dict[str, Any], betas: tuple[float, float], eps: float) -> Tensor:
    """Algorithm 1 of arXiv:1412.6980: the direction."""
    state["m"] = betas[0] * state.get("m", 0.0) + (1 - betas[0]) * g
    state["v"] = betas[1] * state.get("v", 0.0) + (1 - betas[1]) * g**2
    m, v = state["m"] / (1 - betas[0] ** state["t"]), state["v"] / (1 - betas[1] ** state["t"])
    return m / (v.sqrt() + eps)


class PlainLamb(Plain):
    """Algorithm 2 of arXiv:1904.00962, with the identity for phi."""

    def one(self, w: Tensor, g: Tensor, state: dict[str, Any]) -> Tensor:
        r = adam(g, state, self.setting("betas", (0.9, 0.999)), self.setting("eps", 1e-6))
        r = r + self.setting("weight_decay", 0.01) * w
        return w - self.lr * (w.norm() / r.norm() if w.any() and r.any() else 1.0) * r


class PlainLion(Plain):
    """Algorithm 2 of arXiv:2302.06675."""

    def one(self, w: Tensor, g: Tensor, state: dict[str, Any]) -> Tensor:
        beta1, beta2 = self.setting("betas", (0.9, 0.99))
        m = state.get("m", torch.zeros_like(w))
        c = beta1 * m + (1 - beta1) * g
        state["m"] = beta2 * m + (1 - beta2) * g
        return w - self.lr * (c.sign() + self.setting("weight_decay", 0.0) * w)


class PlainMuon(Plain):
    """The post of Jordan et al. 2024 for matrices, with the step length of arXiv:2502.16982; else AdamW."""

    def one(self, w: Tensor, g: Tensor, state: dict[str, Any]) -> Tensor:
        decayed = w - self.lr * self.setting("weight_decay", 0.01) * w
        if w.ndim != 2:
            return decayed - self.lr * adam(g, state, (0.9, 0.999), 1e-8)
        mu = self.setting("momentum", 0.95)
        state["b"] = mu * state.get("b", 0.0) + (1 - mu) * g
        wanted = mu * state["b"] + (1 - mu) * g if self.setting("nesterov", True) else state["b"]
        return decayed - self.lr * 0.2 * math.sqrt(max(w.shape)) * newton_schulz(wanted)


def newton_schulz(matrix: Tensor) -> Tensor:
    """By the singular values alone: the iteration is a polynomial of each, and leaves the singular vectors."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ v


class PlainScheduleFree(Plain):
    """Algorithm 1 of arXiv:2405.15682; the weights of the average are the squared rates without Adam's correction.

    The parameter is y, where gradients are taken."""

    def one(self, w: Tensor, g: Tensor, state: dict[str, Any]) -> Tensor:
        beta1, beta2 = self.setting("betas", (0.9, 0.999))
        x, z = state.get("x", w), state.get("z", w)
        y = (1 - beta1) * z + beta1 * x
        warmup = self.setting("warmup", 0)
        rate = self.lr * min(1, state["t"] / warmup) if warmup else self.lr
        state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * g**2
        root = (state["v"] / (1 - beta2 ** state["t"])).sqrt() + self.setting("eps", 1e-8)
        z = z - rate * g / root - rate * self.setting("weight_decay", 0.0) * y
        state["rates"] = [*state.get("rates", []), rate]
        c = rate**2 / sum(r**2 for r in state["rates"])
        state["x"], state["z"] = (1 - c) * x + c * z, z
        return (1 - beta1) * z + beta1 * state["x"]
