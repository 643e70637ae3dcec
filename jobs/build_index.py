"""Make or update the similarity index of a collection, as a job on a Ray cluster.

    ray job submit --working-dir . -- python jobs/build_index.py s3://bucket/tags

Arguments are those of `tagger index` (see `tagger index --help`).
`tagger submit index …` does the same, follows the job and tries again where that helps.
"""

import sys

from tagger.cli import main

if __name__ == "__main__":
    main(["index", *sys.argv[1:]])
