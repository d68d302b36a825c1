"""What the processor and this PyTorch can do: which ways of keeping weights there are on a CPU, and which pay."""

from __future__ import annotations

import torch


def has_layouts() -> bool:
    """Whether weights can be laid out for oneDNN's kernels, as they are or in bytes: x86-64 with AVX2."""
    return bool(abilities().get("avx2")) and torch.backends.mkldnn.is_available()


def has_byte_products() -> bool:
    """Whether it multiplies bytes straight into 32-bit sums."""
    return any(abilities().get(name) for name in ("amx_int8", "avx512_vnni", "avx_vnni"))


def has_bfloat16_products() -> bool:
    """Whether it multiplies bfloat16 straight into float32 sums."""
    return any(abilities().get(name) for name in ("amx_bf16", "avx512_bf16"))


def abilities() -> dict[str, object]:
    """The processor's abilities by PyTorch's names; one that is not there cannot be used."""
    return dict(torch.cpu.get_capabilities())
