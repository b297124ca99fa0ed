"""Which device a model lives on, from a name that a person typed."""

import torch


def choose_device(name: str | torch.device | None = "auto") -> torch.device:
    """The device of that name, once it is known to be here.

    Args:
        name: `auto` takes the first CUDA GPU and without one the CPU; else `cpu`, `cuda`, `cuda:1`; None is the CPU.
    Raises:
        ValueError: an unknown name, another kind of device, or a GPU that this machine or this PyTorch does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device("cpu" if name is None else name)
    except RuntimeError:
        raise _unknown(name) from None
    if device.type not in ("cpu", "cuda"):
        raise _unknown(name)
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= count:
        have = f"PyTorch {torch.__version__} finds {count} CUDA GPUs here" if count else _no_gpu()
        raise ValueError(f"device={str(name)!r} is not available: {have}; use auto or cpu")
    return device


def _unknown(name: str | torch.device | None) -> ValueError:
    return ValueError(f"device={str(name)!r} is not known; use auto, cpu, cuda or cuda:N")


def _no_gpu() -> str:
    return f"PyTorch {torch.__version__} finds no CUDA GPU"
