"""Recommend images to every customer in a file of events, as a job on a Ray cluster.

    ray job submit --working-dir . -- python jobs/recommend_users.py s3://bucket/collection --events s3://bucket/events.parquet --out s3://bucket/for_users.parquet

Takes what `tagger recommend` takes (`tagger recommend --help`); `tagger submit recommend …` also follows the job and tries again.
"""

import sys

from tagger.cli import main

if __name__ == "__main__":
    main(["recommend", *sys.argv[1:]])
