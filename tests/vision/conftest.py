import io

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def photos(photo_bytes: dict[str, bytes]) -> dict[str, Image.Image]:
    """Real photos, decoded by Pillow."""
    return {name: Image.open(io.BytesIO(data)).convert("RGB") for name, data in photo_bytes.items()}
