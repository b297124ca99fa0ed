"""The number format that each parameter of a model is kept in."""

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def kept_dtype(name: str, found: torch.dtype, wanted: str | None) -> torch.dtype:
    """The format of a parameter in memory or in a file of ours.

    Args:
        name: its name; parameters of the float32 island never go below float32: decays and step sizes rounded to bfloat16
            change how long a state remembers.
        found: the format it has.
        wanted: "float32", "bfloat16" or "float16"; None keeps what was found.
    Raises:
        ValueError: an unknown `wanted`.
    """
    if not found.is_floating_point:
        return found
    if wanted is not None and wanted not in DTYPES:
        raise ValueError(f"dtype={wanted!r} is unknown; use one of {', '.join(DTYPES)}")
    if "island" in name.split("."):
        return torch.promote_types(found, torch.float32) if wanted is None else torch.float32
    return found if wanted is None else DTYPES[wanted]
