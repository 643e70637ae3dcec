"""Recommend images to the customers in a file of events, as a job on a Ray cluster.

    ray job submit --working-dir . -- python jobs/recommend_users.py s3://b/tags --events e.csv --out out.csv

Arguments are those of `tagger recommend` (see `tagger recommend --help`).
`tagger submit recommend …` does the same, follows the job and tries again where that helps.
"""

import sys

from tagger.cli import main

if __name__ == "__main__":
    main(["recommend", *sys.argv[1:]])
