"""`retag`: finds the model's last layer for a collection and applies another taxonomy with it."""

from pathlib import Path

from tagger.collection import Collection, Retagged
from tagger.collection import retag as retag_rows
from tagger.errors import ModelError
from tagger.models import find_model, load_head, prepare
from tagger.settings import load_settings
from tagger.tags import load_taxonomy


def retag(
    collection: str, *, taxonomy: Path | None = None, threshold: float | None = None, top_k: int | None = None
) -> Retagged:
    """Make tags and categories again from the stored embeddings; what is None stays as it is.

    Args:
        collection: Address of the collection.
        taxonomy: File that renames, hides or groups labels.
        threshold: Least score of a tag, in [0, 1].
        top_k: Most tags per image.

    Raises:
        UsageError: Not a collection, a bad taxonomy, or the model's weights are no longer those of the rows.
        CollectionBusy: Another run writes.
    """
    opened = Collection.open(collection)
    config = opened.config
    prepared = prepare(find_model(config.model), cache_dir=load_settings().cache_dir)
    if prepared.model_id != config.model_id:
        raise ModelError(
            f"the weights of {config.model} are not those that made {collection} "
            f"({prepared.model_id[:12]} instead of {config.model_id[:12]}): bring them back, or tag anew"
        )
    return retag_rows(
        opened,
        load_head(prepared).logits,
        taxonomy=load_taxonomy(taxonomy, config.labels, config.wnids) if taxonomy else None,
        threshold=threshold,
        top_k=top_k,
    )
