import gzip
import lzma
import shutil
import subprocess

import pytest

from tandem.data import compression_baselines

TEXT = "".join(f"Line {k} of a text that repeats itself {k * k} times.\n" for k in range(3000)).encode()


def test_bits_are_those_of_the_compressed_files():
    found = compression_baselines(TEXT)
    assert found["gzip"] == 8 * len(gzip.compress(TEXT, 9)) / len(TEXT)
    assert found["xz"] == 8 * len(lzma.compress(TEXT, preset=9)) / len(TEXT)


@pytest.mark.skipif(shutil.which("xz") is None, reason="apt-get install xz-utils")
def test_xz_equals_the_command():
    command = subprocess.run(["xz", "-9", "-c"], input=TEXT, capture_output=True, check=True)
    assert compression_baselines(TEXT)["xz"] == 8 * len(command.stdout) / len(TEXT)


def test_empty_text_is_refused():
    with pytest.raises(ValueError, match=r"baselines\.text"):
        compression_baselines(b"")
