"""That Python and C++ mean the same members by the same places."""

import ctypes
import re
from pathlib import Path

import pytest

from tandem.ops.cpu import compiled, instructions

HEADER = Path(compiled.__file__).parent / "kernels" / "step.h"


def members(name: str) -> list[str]:
    """Names of a structure's members in the header, in order."""
    found = re.search(rf"struct {name} {{(.*?)\n}};", HEADER.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    lines = [re.sub(r"//.*", "", line) for line in found.group(1).split("\n")]
    statements = [
        part for part in " ".join(lines).split(";") if part.strip() and "(" not in part and "return" not in part
    ]
    return [
        re.split(r"[\s*]+", declared.strip())[-1]
        for statement in statements
        for declared in statement.strip(" }").split(",")
        if declared.strip()
    ]


@pytest.mark.parametrize("kind", [instructions.Matrix, *instructions.KINDS])
def test_members_are_those_of_the_header(kind: type[ctypes.Structure]):
    assert [field[0] for field in kind._fields_] == members(kind.__name__)
    assert all(ctypes.sizeof(field[1]) % 8 == 0 for field in kind._fields_)


def test_kinds_are_numbered_as_they_are_run():
    source = (HEADER.parent / "step.cpp").read_text(encoding="utf-8")
    assert re.findall(r"run_at<(\w+)>", source) == [kind.__name__ for kind in instructions.KINDS]
