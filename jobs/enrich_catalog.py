"""Add what its pictures show to a product catalog, as a job on a Ray cluster.

    ray job submit --working-dir . -- python jobs/enrich_catalog.py s3://bucket/tags products.csv --out s3://bucket/out.csv

Arguments are those of `tagger enrich` (see `tagger enrich --help`).
`tagger submit enrich …` does the same, follows the job and tries again where that helps.
"""

import sys

from tagger.cli import main

if __name__ == "__main__":
    main(["enrich", *sys.argv[1:]])
