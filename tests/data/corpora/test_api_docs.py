import gzip
import json
import zipfile
from pathlib import Path

import pytest

from tandem.data.corpora.api_docs import read_api_docs, service_documents

MODEL = {
    "metadata": {"serviceFullName": "Box Service"},
    "documentation": "<p>Keeps <i>boxes</i>.</p>",
    "operations": {
        "PutBox": {
            "documentation": "<p>Puts a box &amp; its lid.</p>",
            "input": {"shape": "PutBoxRequest"},
            "output": {"shape": "Missing"},
        },
        "Ping": {},
    },
    "shapes": {
        "PutBoxRequest": {"members": {"Size": {"documentation": "<p>How large.</p>"}, "Plain": {}}},
        "Lid": {"documentation": "A lid.", "members": {"Color": {"documentation": "Its color."}}},
        "Text": {"type": "string"},
    },
}


def test_one_document_an_operation_and_a_structure():
    texts = {document.source: document.text for document in service_documents("box", MODEL)}
    assert texts == {
        "box/introduction": "Box Service\n\nKeeps boxes.",
        "box/PutBox": "Box Service: PutBox\n\nPuts a box & its lid.\n\nRequest fields:\n\nSize: How large.",
        "box/Ping": "Box Service: Ping",
        "box/structures/Lid": "Box Service: the Lid structure\n\nA lid.\n\nFields:\n\nColor: Its color.",
    }
    assert {document.group for document in service_documents("box", MODEL)} == {"box"}


def test_only_the_newest_version_of_a_service_is_read(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as archive:
        for version in ("2012-01-01", "2020-05-05", "2019-12-12"):
            model = MODEL | {"metadata": {"serviceFullName": version}, "operations": {}, "shapes": {}}
            archive.writestr(
                f"botocore/data/box/{version}/service-2.json.gz", gzip.compress(json.dumps(model).encode())
            )
        archive.writestr("botocore/data/box/2021-01-01/waiters-2.json", "{}")
    assert [document.text for document in read_api_docs(tmp_path / "w.whl")] == ["2020-05-05\n\nKeeps boxes."]


def test_files_that_are_no_wheel_are_refused(tmp_path: Path):
    (tmp_path / "w.whl").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"w\.whl is no wheel"):
        list(read_api_docs(tmp_path / "w.whl"))
    zipfile.ZipFile(tmp_path / "e.whl", "w").close()
    with pytest.raises(ValueError, match="holds no service"):
        list(read_api_docs(tmp_path / "e.whl"))
