"""Sheets hide what is not asked about; with scikit-image the detector counts faces on them."""

import importlib.util

import numpy as np
import pytest
from numpy.typing import NDArray

from tandem.queries import Region
from tandem.recipes import face_sheets
from tandem.recipes.face_sheets import GRAY, Detector, Sheet, find_faces, photographs

with_images = pytest.mark.skipif(
    importlib.util.find_spec("skimage") is None, reason="pip install 'tandem-lm[images]' for scikit-image"
)


def white(picture: NDArray[np.uint8]) -> int:
    """An oracle that knows: white photographs are what is counted."""
    return int((picture == 255).sum()) // 9


def test_a_question_shows_its_photographs_where_they_are():
    photos = np.zeros((200, 3, 3), dtype=np.uint8)
    photos[:100] = 255
    chosen = np.full(16, 150)
    chosen[[2, 7]] = [3, 4]
    sheet = Sheet(photos, chosen, white)
    assert sheet.faces == [2, 7]
    picture = sheet.picture(Region([(0, 3)]))
    assert picture.shape == (12, 12)
    assert (picture[:3, 6:9] == 255).all()
    assert (picture[:3, :6] == 0).all()
    assert (picture[3:] == GRAY).all()
    assert [sheet.count(Region([(0, stop)])) for stop in (2, 3, 16)] == [0, 1, 2]
    assert sheet.counts == [0, 1, 2]


def test_without_scikit_image_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(face_sheets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'tandem-lm\[images\]'"):
        Detector()


@with_images
def test_the_detector_knows_faces_from_others():
    photos, detector = photographs(), Detector()
    assert sum(detector(photo) for photo in photos[:100:5]) >= 18
    assert sum(detector(photo) for photo in photos[100::5]) <= 1


@with_images
def test_a_search_finds_what_the_detector_sees():
    row = find_faces(k=3, side=6, sheet=0)
    assert row["found"] == row["one_by_one"]
    assert row["looks"] < 36
