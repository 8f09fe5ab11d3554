"""AdamW in one fused step over all parameters of a player.

torch's own kernel, called without the bookkeeping of torch's class, which adds one to a counter per parameter by as
many operations: a twentieth of a step of a small model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class AdamW:
    """Decoupled weight decay and moments of each parameter (Loshchilov & Hutter 2019).

    Parameters
    ----------
    parameters : sequence of Parameter
    weight_decay, eps : float
    betas : pair of float
        How much of the moments is kept at a step.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        weight_decay: float,
        eps: float,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.parameters = list(parameters)
        self.weight_decay, self.eps, self.betas = weight_decay, eps, betas
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        # counted for each, since one without a gradient in a step takes no step
        device = self.parameters[0].device if self.parameters else None
        self.counts = torch.zeros(len(self.parameters), device=device)
        self.count_of = list(self.counts.unbind())

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move every parameter that has a gradient, at this learning rate."""
        moved = [(i, p.grad) for i, p in enumerate(self.parameters) if p.grad is not None]
        places = [i for i, _ in moved]
        if not places:
            return
        if len(places) == len(self.parameters):
            self.counts += 1
        else:
            self.counts[places] += 1
        torch._fused_adamw_(
            [self.parameters[i] for i in places],
            [gradient for _, gradient in moved],
            [self.means[i] for i in places],
            [self.squares[i] for i in places],
            [],
            [self.count_of[i] for i in places],
            lr=rate,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a run needs to go on, under torch's names."""
        slots = {"exp_avg": self.means, "exp_avg_sq": self.squares, "step": self.count_of}
        return {f"{i}.{name}": values for name, of_each in slots.items() for i, values in enumerate(of_each)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """What `tensors` gave; a parameter that has taken no step may be left out."""
        for name, into in self.tensors().items():
            if name in tensors:
                into.copy_(tensors[name])
