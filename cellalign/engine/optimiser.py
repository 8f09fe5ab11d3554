"""The optimiser: AdamW, without what torch wraps around it for `torch.compile`."""

from __future__ import annotations

from inspect import unwrap

import torch


class AdamW(torch.optim.AdamW):
    """torch's AdamW, step for step, for training that is not compiled.

    torch wraps these methods so that its compiler leaves them alone, and each wrapper imports that compiler when it is
    first called: 1,500 modules, and a second before the first step. What is wrapped is the same code.
    """

    # of the classes torch defines them in: an instance of one may have put another wrapper around its own
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))
    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)
