"""AdamW in one fused step over all parameters of a player.

torch's own kernel, called without the bookkeeping of torch's class: that adds one to a counter per parameter by as many
operations, a twentieth of a step of a small model, and imports torch's compiler, a second before the first step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

# as torch names what it keeps of a parameter
MEAN, SQUARE, STEP = "exp_avg", "exp_avg_sq", "step"


class AdamW:
    """Decoupled weight decay and moments of each parameter (Loshchilov & Hutter 2019).

    Parameters
    ----------
    parameters : sequence of Parameter
        One that never has a gradient costs nothing.
    weight_decay, eps : float
    betas : pair of float
        How much of the moments is kept at a step.
    shares : mapping of int to Tensor
        Of the parameters at these places, the part of a step that each value makes: 0 stays as it is.
    undecayed : collection of int
        The places of parameters without weight decay.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        weight_decay: float,
        eps: float,
        betas: tuple[float, float] = (0.9, 0.999),
        shares: Mapping[int, Tensor] | None = None,
        undecayed: Collection[int] = (),
    ) -> None:
        self.parameters = list(dict.fromkeys(parameters))
        self.weight_decay, self.eps, self.betas = weight_decay, eps, betas
        self.shares, self.undecayed = dict(shares or {}), frozenset(undecayed)
        self.moments: dict[int, tuple[Tensor, Tensor]] = {}
        self.steps: dict[int, int] = {}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move every parameter that has a gradient, at this learning rate."""
        before = {i: self.parameters[i].clone() for i in self.shares}
        alike: dict[tuple[torch.device, torch.dtype, int, float], list[int]] = defaultdict(list)
        for i, p in enumerate(self.parameters):
            if p.grad is not None:
                self.steps[i] = self.steps.get(i, 0) + 1
                decay = 0.0 if i in self.undecayed else self.weight_decay
                alike[p.device, p.dtype, self.steps[i], decay].append(i)
        for (device, _, steps, decay), places in alike.items():
            parameters: list[Tensor] = [self.parameters[i] for i in places]
            moments = [self.moments.get(i) or self._begin(i) for i in places]
            torch._fused_adamw_(
                parameters,
                [_laid_out(p) for p in parameters],
                [mean for mean, _ in moments],
                [square for _, square in moments],
                [],
                [torch.full((), steps, dtype=torch.float32, device=device)] * len(places),
                lr=rate,
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=decay,
                eps=self.eps,
                amsgrad=False,
                maximize=False,
            )
        for i, share in self.shares.items():
            self.parameters[i].copy_(before[i].lerp_(self.parameters[i], share))

    def _begin(self, i: int) -> tuple[Tensor, Tensor]:
        """The moments of a parameter before its first step."""
        p = self.parameters[i]
        self.moments[i] = torch.zeros_like(p), torch.zeros_like(p)
        return self.moments[i]

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a run needs to go on."""
        found: dict[str, Tensor] = {}
        for i, (mean, square) in self.moments.items():
            found |= {f"{i}.{MEAN}": mean, f"{i}.{SQUARE}": square, f"{i}.{STEP}": torch.tensor(float(self.steps[i]))}
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """What `tensors` gave; a parameter that had taken no step is not in it."""
        for i in {int(name.partition(".")[0]) for name in tensors}:
            for into, name in zip(self._begin(i), (MEAN, SQUARE), strict=True):
                into.copy_(tensors[f"{i}.{name}"])
            self.steps[i] = int(tensors[f"{i}.{STEP}"])


def _laid_out(p: Tensor) -> Tensor:
    """Its gradient, lying in memory as the parameter does: the kernel looks at nothing but memory."""
    assert p.grad is not None
    gradient = p.grad.to_dense() if p.grad.is_sparse else p.grad
    return gradient if gradient.stride() == p.stride() else torch.empty_like(p).copy_(gradient)
