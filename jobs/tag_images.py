"""Tag the images of a bucket, as a job on a Ray cluster.

    ray job submit --working-dir . -- python jobs/tag_images.py s3://bucket/photos s3://bucket/tags

Arguments are those of `tagger tag` (see `tagger tag --help`).
`tagger submit tag …` does the same, follows the job and tries again where that helps.
"""

import sys

from tagger.cli import main

if __name__ == "__main__":
    main(["tag", *sys.argv[1:]])
