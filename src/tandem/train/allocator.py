"""Keeping memory that a step has freed for the next one.

A training step allocates and frees the same gigabytes again and again. By default glibc maps large blocks from the system
and unmaps them at once, and the system zeroes each page anew: from a twentieth to a quarter of a step of `nano`, on two
virtual machines with two cores.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Tells glibc to take all blocks from one heap and never to give it back; False where the C library is another.

    It holds for the process from now on. A process grows to its largest step and stays there, as training does anyway.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
