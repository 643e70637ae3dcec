"""Screenshots of the browser tests as the pictures of the guides: `make screenshots`."""

import sys
from pathlib import Path

from PIL import Image

PICTURES = {"products-flagged-wide": "products", "product-wide": "product"}
WIDTH = 1000


def main(folder: Path, out: Path) -> None:
    """Write the pictures, smaller, as JPEG."""
    out.mkdir(exist_ok=True)
    for name, kept in PICTURES.items():
        picture = Image.open(folder / f"{name}.png").convert("RGB")
        height = round(picture.height * WIDTH / picture.width)
        picture.resize((WIDTH, height), Image.Resampling.LANCZOS).save(
            out / f"{kept}.jpg", quality=82, optimize=True, progressive=True
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
