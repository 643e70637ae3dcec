"""`retag`: applies another taxonomy with the model's last layer, which the collection keeps."""

from pathlib import Path

from tagger.collection import Collection, Retagged
from tagger.collection import retag as retag_rows
from tagger.errors import CollectionError
from tagger.models import HEAD_FILE, load_head
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
        UsageError: Not a collection, a bad taxonomy, or the model's last layer was altered.
        CollectionBusy: Another run writes.
    """
    opened = Collection.open(collection)
    config = opened.config
    head = opened.head()
    if head is None:
        raise CollectionError(f"{collection} does not keep its model's last layer: tag anew to have it")
    return retag_rows(
        opened,
        load_head({HEAD_FILE: head}).logits,
        taxonomy=load_taxonomy(taxonomy, config.labels, config.wnids) if taxonomy else None,
        threshold=threshold,
        top_k=top_k,
    )
