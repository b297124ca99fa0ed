"""Reading the JSON files of a model directory."""

import json
from pathlib import Path
from typing import Any


def read_json_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: not JSON, or no object.
    """
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error}); copy the model directory again") from error
    if not isinstance(plain, dict):
        raise ValueError(f"{file} holds a JSON {type(plain).__name__}, not an object; copy the model directory again")
    return plain
