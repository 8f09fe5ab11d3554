"""What learns by gradient steps, each with an optimiser of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from cellalign.engine.learning_on import LearningOn
from cellalign.engine.optimiser import AdamW
from cellalign.engine.plan import Plan
from cellalign.methods.base import CONDITION, HasPlayers, Method, Player, Trains
from cellalign.methods.capabilities import LearnsOn


def players_of(method: Method) -> Mapping[str, Player]:
    """Those of the method, or one of all parameters; none where there is nothing to learn by gradient steps."""
    if isinstance(method, HasPlayers):
        return method.players()
    parameters = list(method.parameters())
    return {"all": Player(parameters)} if parameters and isinstance(method, Trains) else {}


def optimiser_of(
    method: Method, player: Player, plan: Plan, learning_on: LearningOn | None, device: torch.device
) -> AdamW:
    """AdamW of a player's parameters."""
    shares = {} if learning_on is None else learning_on.shares(method, player, device)
    decay, free = plan.weight_decay, undecayed(method, player)
    return AdamW(player.parameters, weight_decay=decay, eps=plan.adam_eps, shares=shares, undecayed=free)


def undecayed(method: Method, player: Player) -> frozenset[int]:
    """Places of a player's parameters by which a condition that is a number enters, and batches beside it.

    Decay draws them to zero, and with them the change that the number makes. Of categories it stays, as methods were
    published.
    """
    if not isinstance(method, LearnsOn) or not method.layout.continuous:
        return frozenset()
    named = dict(method.named_parameters())
    free = {id(named[name]) for name, weight in method.context_weights().items() if CONDITION in weight.roles}
    return frozenset(i for i, parameter in enumerate(player.parameters) if id(parameter) in free)
