"""Every file of the corpus, decoded in process: the right code, the right picture."""

from collections import Counter

import badfiles
import numpy as np
import pytest
from badfiles import Case, bad_files, local_names, odd_names
from PIL import Image

from tagger.errors import ImageError
from tagger.vision.decode import decode
from tagger.vision.framing import Framing
from tagger.vision.picture import DecodeLimits

WHOLE = Framing(size_px=64, resize_px=64, mode="squash")

pytestmark = pytest.mark.xdist_group("badfiles")  # the corpus takes seconds to make: once is enough


GROUPS = ("whole", "cut", "flip", "bomb", "not", "misnamed", "orientation", "good")


@pytest.mark.parametrize("group", [*GROUPS, "other"])
@pytest.mark.filterwarnings("ignore")  # what a decoder mutters about a broken file
def test_every_file_gives_its_result(group: str) -> None:
    # The cases are no parameters: the corpus would be made whenever any test is collected.
    cases = [case for case in bad_files() if _group(case) == group]
    wrong = {case.name: said for case in cases if (said := _mismatch(case))}
    assert cases
    assert wrong == {}


def _group(case: Case) -> str:
    first = case.name.split("-")[0]
    return first if first in GROUPS else "other"


def _mismatch(case: Case) -> str:
    """Decode one case and say what is wrong with the result; empty if nothing is."""
    wanted = " or ".join(sorted(case.expected))
    try:
        picture = decode(case.data, [WHOLE], DecodeLimits())
    except ImageError as error:
        return "" if error.code in case.expected and error.detail else f"{error}; expected {wanted}"
    if "tagged" not in case.expected:
        return f"tagged; expected {wanted}"
    (pixels,) = picture.pixels
    if pixels.shape != (64, 64, 3) or pixels.dtype != np.uint8:
        return f"pixels are {pixels.dtype} {pixels.shape}"
    size = (picture.facts.width_px, picture.facts.height_px)
    if case.size_px not in (None, size):
        return f"size is {size}; expected {case.size_px}"
    if case.thumbnail is None:
        return ""
    seen = badfiles.thumbnail(Image.fromarray(pixels))
    difference = int(np.abs(seen.astype(int) - case.thumbnail.astype(int)).max())
    return "" if difference <= case.tolerance else f"another picture: off by {difference}"


def test_the_corpus_is_large_mixed_and_the_same_every_time() -> None:
    cases = bad_files()
    assert len(cases) >= 250
    assert len({case.name for case in cases}) == len(cases)
    kinds = Counter(code for case in cases for code in case.expected)
    assert kinds["corrupt"] >= 90
    assert kinds["too_many_pixels"] >= 10
    assert kinds["unsupported_format"] >= 20
    assert kinds["empty"] == 2
    assert sum(case.expected == {"tagged"} for case in cases) >= 100
    again = bad_files.__wrapped__()
    assert [(case.name, case.data) for case in again] == [(case.name, case.data) for case in cases]


def test_names_are_distinct_and_fit_their_stores() -> None:
    assert len(set(odd_names())) == len(odd_names())
    assert all(len(name.encode()) <= 1024 for name in odd_names())
    assert max(len(name.encode()) for name in odd_names()) == 900
    assert len(set(local_names())) == len(local_names()) > 40
    assert sum(1 for name in local_names() if not _is_utf8(name)) == 4


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
