"""In which precision products are computed: what was asked for, where the hardware gains by it."""

from __future__ import annotations

import logging
from typing import Any

import torch

from cellalign.engine.plan import Plan, Precision
from cellalign.methods.base import Method
from cellalign.methods.capabilities import by_steps

log = logging.getLogger("cellalign")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def processor_has_bfloat16() -> bool:
    """Whether torch multiplies bfloat16 by instructions that the CPU has for it (AVX-512 BF16, AMX, or those of ARM).

    oneDNN does; where torch was built without it, or it is switched off, bfloat16 is many times slower than float32.
    """
    one_dnn = torch.backends.mkldnn
    if not (one_dnn.is_available() and one_dnn.enabled):
        return False
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities:
        return any("bf16" in name and found is True for name, found in capabilities.items())
    asked = (getattr(torch.cpu, name, bool) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(supported() for supported in asked)


def settle(asked: Precision, device: torch.device) -> Precision:
    """The precision to use: where "auto" is asked for, bfloat16 on a CPU that has it.

    On a GPU "auto" is float32 (and not TF32): products of the methods' default sizes take it microseconds, fewer than
    starting the kernels that round. Asked for where the device lacks it, bfloat16 is used, with a warning.
    """
    if asked == "auto":
        return "bfloat16" if device.type == "cpu" and processor_has_bfloat16() else "float32"
    if asked == "bfloat16":
        on_gpu = device.type == "cuda" and torch.cuda.is_available()
        if not (processor_has_bfloat16() if device.type == "cpu" else not on_gpu or torch.cuda.is_bf16_supported()):
            log.warning("there are no instructions for bfloat16 here, so that it is slower than float32")
    return asked


def settled_plan(cls: type[Method], hyperparameters: Any, plan: Plan, device: torch.device) -> Plan:
    """The plan with the precision that a run has; a method that is not trained by steps has no products to round.

    Networks that are members of a stack compute as they do alone.
    """
    trains = by_steps(cls, hyperparameters)
    return plan.model_copy(update={"precision": settle(plan.precision, device) if trains else "float32"})
