"""Tag the images of a bucket, as a job on a Ray cluster.

    ray job submit --working-dir . -- python jobs/tag_images.py s3://bucket/photos s3://bucket/collection

Takes what `tagger tag` takes (`tagger tag --help`); `tagger submit tag …` also follows the job and tries again.
"""

import sys

from tagger.cli import main

if __name__ == "__main__":
    main(["tag", *sys.argv[1:]])
