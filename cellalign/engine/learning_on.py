"""What learns of a method that is trained already, and how fast: weights of new values alone, or all others slowly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cellalign.methods.base import Player


@dataclass(frozen=True)
class LearningOn:
    """Which weights are new, and how fast the others learn.

    Statistics of batch normalisation stay as they are: those of the new cells alone would be others, and move every
    cell.

    Attributes
    ----------
    new : mapping of str to bool Tensor
        By name, the parameters some values of which are new: True where they are, in the parameter's shape.
    rest : float
        Learning rate of all other values, of that of the new ones: 0 leaves them, bit for bit.
    """

    new: Mapping[str, Tensor]
    rest: float = 0.0

    def players(self, method: nn.Module) -> dict[str, Player]:
        """The parameters with new values, and the others where they learn too."""
        named = dict(method.named_parameters())
        found = {"new": Player([named[name] for name in self.new])}
        others = [parameter for name, parameter in named.items() if name not in self.new]
        for parameter in others:
            parameter.requires_grad_(self.rest > 0)
        found |= {"rest": Player(others, lr=self.rest)} if self.rest else {}
        return {name: player for name, player in found.items() if player.parameters}

    def shares(self, method: nn.Module, player: Player, device: torch.device) -> dict[int, Tensor]:
        """Of a player's parameters, by place, the part of a step that each value makes, where not all make a whole."""
        masks = {id(parameter): self.new[name] for name, parameter in method.named_parameters() if name in self.new}
        there = {i: masks.get(id(parameter)) for i, parameter in enumerate(player.parameters)}
        return {
            i: torch.where(mask.to(device), 1.0, self.rest)
            for i, mask in there.items()
            if mask is not None and not bool(mask.all())
        }

    def keep_statistics(self, method: nn.Module) -> None:
        """Take layers of batch normalisation out of training."""
        for module in method.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
