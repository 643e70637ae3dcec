"""Add what its pictures show to a product catalog, as a job on a Ray cluster.

    ray job submit --working-dir . -- python jobs/enrich_catalog.py s3://bucket/collection s3://bucket/products.csv --out s3://bucket/enriched.parquet

Takes what `tagger enrich` takes (`tagger enrich --help`); `tagger submit enrich …` also follows the job and tries again.
"""

import sys

from tagger.cli import main

if __name__ == "__main__":
    main(["enrich", *sys.argv[1:]])
