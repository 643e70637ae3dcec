"""What every backend takes in."""

import numpy as np
import numpy.typing as npt


def check_pixels(pixels: npt.NDArray[np.uint8], size_px: int) -> None:
    """Refuse what the model would misread.

    Raises:
        ValueError: `pixels` is not uint8 of shape (N, size_px, size_px, 3).
    """
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (size_px, size_px, 3):
        raise ValueError(
            f"pixels must be uint8 of shape (N, {size_px}, {size_px}, 3), got {pixels.dtype} {pixels.shape}"
        )
