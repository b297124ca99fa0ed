"""The default corpus: descriptions of web-service operations, written by people for people, from the `botocore` wheel.

The wheel is read as a zip file and never installed or imported. One document is one operation of one service with the
description of its request and response fields, one data structure with its fields, or the introduction of a service.
"""

import gzip
import json
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from tandem.data.documents import Document
from tandem.data.markup import html_to_text


def read_api_docs(wheel: Path) -> Iterator[Document]:
    """Documents of every service in the wheel, newest API version only, services in alphabetical order.

    Raises:
        ValueError: the file is no zip archive or holds no service descriptions.
    """
    try:
        archive = zipfile.ZipFile(wheel)
    except zipfile.BadZipFile as error:
        raise ValueError(f"corpus.wheel={wheel} is no wheel; delete it and fetch again") from error
    with archive:
        newest = _newest_versions(archive.namelist())
        if not newest:
            raise ValueError(f"corpus.wheel={wheel} holds no service-2.json.gz; use botocore==1.44.5")
        for service, member in newest.items():
            yield from service_documents(service, json.loads(gzip.decompress(archive.read(member))))


def _newest_versions(names: list[str]) -> dict[str, str]:
    """Path of the newest `botocore/data/<service>/<date>/service-2.json.gz` by service."""
    newest: dict[str, str] = {}
    for name in sorted(names):
        parts = name.split("/")
        if parts[:2] == ["botocore", "data"] and parts[-1] == "service-2.json.gz":
            newest[parts[2]] = name
    return newest


def service_documents(service: str, model: dict[str, Any]) -> Iterator[Document]:
    """Documents of one service description: introduction, operations, then the structures they use.

    `service` is the directory name and becomes the group, so that a service is in one split only.
    """
    title = model["metadata"]["serviceFullName"]
    shapes: dict[str, Any] = model["shapes"]
    intro = _plain(model.get("documentation", ""))
    if intro:
        yield Document(text=f"{title}\n\n{intro}", source=f"{service}/introduction", group=service)
    told: set[str] = set()
    for name, operation in model["operations"].items():
        parts = [f"{title}: {name}", _plain(operation.get("documentation", ""))]
        for role, heading in (("input", "Request fields"), ("output", "Response fields")):
            shape = operation.get(role, {}).get("shape")
            parts.append(_fields(heading, shapes.get(shape, {})))
            told.add(shape)
        yield Document(text=_join(parts), source=f"{service}/{name}", group=service)
    for name, shape in shapes.items():
        if name not in told and shape.get("members"):
            parts = [f"{title}: the {name} structure", _plain(shape.get("documentation", "")), _fields("Fields", shape)]
            yield Document(text=_join(parts), source=f"{service}/structures/{name}", group=service)


def _fields(heading: str, shape: dict[str, Any]) -> str:
    """`heading:` and one `name: description` paragraph for each described member; empty without any."""
    described = ((name, _plain(member.get("documentation", ""))) for name, member in shape.get("members", {}).items())
    lines = [f"{name}: {text}" for name, text in described if text]
    return "\n\n".join([f"{heading}:", *lines]) if lines else ""


def _join(parts: list[str]) -> str:
    return "\n\n".join(part for part in parts if part)


@lru_cache(maxsize=4096)  # services repeat the description of a field for every operation that takes it
def _plain(html: str) -> str:
    return html_to_text(html)
