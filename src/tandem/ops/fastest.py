"""Which number format this machine multiplies fastest."""

import torch


def fastest_dtype(device: torch.device | str = "cpu") -> torch.dtype:
    """bfloat16 on a GPU and where the processor has it natively, else float32."""
    native = torch.device(device).type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32
