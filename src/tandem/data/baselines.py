"""What general compressors make of a text: the yardstick beside a model's bits per byte."""

import gzip
import lzma


def compression_baselines(text: bytes) -> dict[str, float]:
    """Bits per byte of `gzip -9` and `xz -9`, headers included, as the commands would write them.

    Raises:
        ValueError: empty text.
    """
    if not text:
        raise ValueError("baselines.text=b'' has no bytes to compress; give the validation text")
    return {
        "gzip": 8 * len(gzip.compress(text, compresslevel=9, mtime=0)) / len(text),
        "xz": 8 * len(lzma.compress(text, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, preset=9)) / len(text),
    }
