"""Places for collections: a local folder and an S3 prefix."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for collection_kit, which other processes import too


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def place(request, tmp_path):
    """The address of a collection that does not exist yet, in a folder and in a bucket."""
    if request.param == "local":
        return str(tmp_path / "collection")
    return request.getfixturevalue("bucket").uri + "/some/collection"
