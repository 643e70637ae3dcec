from pathlib import Path

import numpy as np
import pytest
import skimage

from tagger.errors import ImageError
from tagger.vision import DecodeLimits, Framing
from tagger.vision.decode import decode

PHOTO = (Path(skimage.__file__).parent / "data" / "rocket.jpg").read_bytes()
FRAMINGS = (Framing(224, 256),)


@pytest.mark.parametrize("count", [1, 7, 16])
def test_padding_before_the_end_marker_is_harmless(count):
    end = PHOTO.rindex(b"\xff\xd9")
    padded = PHOTO[:end] + b"\x00" * count + PHOTO[end:]
    plain, odd = (decode(data, FRAMINGS, DecodeLimits()) for data in (PHOTO, padded))
    assert np.array_equal(plain.pixels[0], odd.pixels[0])
    assert plain.facts == odd.facts


def test_much_left_over_means_damage():
    end = PHOTO.rindex(b"\xff\xd9")
    with pytest.raises(ImageError, match="corrupt"):
        decode(PHOTO[:end] + b"\x00" * 500 + PHOTO[end:], FRAMINGS, DecodeLimits())
