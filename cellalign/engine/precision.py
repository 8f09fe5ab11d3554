"""In which precision products are computed: what was asked for, where the hardware gains by it."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch

from cellalign.engine.plan import Precision

log = logging.getLogger("cellalign")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@cache
def processor_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 by instructions of its own (AVX-512 BF16, AMX, or those of ARM)."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities:
        return any("bf16" in name and found is True for name, found in capabilities.items())
    asked = (getattr(torch.cpu, name, bool) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(supported() for supported in asked)


def settle(asked: Precision, device: torch.device) -> Precision:
    """The precision to use: where "auto" is asked for, bfloat16 on a CPU that has it.

    On a GPU "auto" is float32: products of the methods' default sizes take it microseconds, fewer than it takes to
    start the kernels that round. Asked for where the CPU lacks it, bfloat16 is used, with a warning.
    """
    on_cpu = device.type == "cpu"
    if asked == "auto":
        return "bfloat16" if on_cpu and processor_has_bfloat16() else "float32"
    if asked == "bfloat16" and on_cpu and not processor_has_bfloat16():
        log.warning("this processor has no instructions for bfloat16, which is slower on it than float32")
    return asked
