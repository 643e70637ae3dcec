"""What is on disk: the tags table, its parts and commits, one writer at a time, checks."""

from tagger.collection.checks import CheckResult, check
from tagger.collection.config import Config, Tagging
from tagger.collection.opening import Collection, read_taxonomy
from tagger.collection.parts import Part, Receipt, part_name, rewrite_part, write_part
from tagger.collection.retagging import Retagged, retag
from tagger.collection.runs import RunRecord, new_run_id
from tagger.collection.schema import PLAN_SCHEMA, SCHEMA
from tagger.collection.table import LivePart, TagsTable
from tagger.collection.writer import Writer

__all__ = [
    "PLAN_SCHEMA",
    "SCHEMA",
    "CheckResult",
    "Collection",
    "Config",
    "LivePart",
    "Part",
    "Receipt",
    "Retagged",
    "RunRecord",
    "Tagging",
    "TagsTable",
    "Writer",
    "check",
    "new_run_id",
    "part_name",
    "read_taxonomy",
    "retag",
    "rewrite_part",
    "write_part",
]
