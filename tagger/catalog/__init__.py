"""Product catalogs: read in any form, joined with their pictures, enriched, and written for shops."""

from tagger.catalog.enriching import Enriched, enrich
from tagger.catalog.flags import FLAGS, FlagRules
from tagger.catalog.formats import FORMATS
from tagger.catalog.options import EnrichOptions
from tagger.catalog.schema import OURS
from tagger.catalog.similar import Rules

__all__ = ["FLAGS", "FORMATS", "OURS", "EnrichOptions", "Enriched", "FlagRules", "Rules", "enrich"]
