"""The names of a model's classes, in class order."""

from pathlib import Path
from typing import Final

from tagger.errors import ModelError

_IMAGENET: Final = Path(__file__).with_name("imagenet.tsv")

Labels = tuple[tuple[str, ...], tuple[str, ...] | None]
"""Class names as the model's makers wrote them (they may repeat), and WordNet ids where known."""


def read_labels(labels: str) -> Labels:
    """Read the labels that a `ModelSpec` names.

    >>> names, wnids = read_labels("imagenet")
    >>> names[281], wnids[281]
    ('tabby', 'n02123045')

    Args:
        labels: `imagenet`, or `file:PATH`: UTF-8, one class a line, `name` or `wnid<TAB>name`. Lines that
            begin with `# ` before the first class are comments.

    Raises:
        ModelError: The file cannot be read, or a line holds no name.
    """
    path = _IMAGENET if labels == "imagenet" else Path(labels.removeprefix("file:"))
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"the labels file {path} cannot be read: {error}") from None
    names: list[str] = []
    wnids: list[str] = []
    for number, line in enumerate(lines, start=1):
        if line.startswith("# ") and not names:
            continue
        wnid, tab, name = line.rpartition("\t")
        if not name.strip():
            raise ModelError(f"{path}, line {number}: a class needs a name")
        names.append(name.strip())
        if tab:
            wnids.append(wnid.strip())
    if not names:
        raise ModelError(f"the labels file {path} names no class")
    if wnids and len(wnids) != len(names):
        raise ModelError(f"{path}: {len(wnids)} of {len(names)} lines have a WordNet id; give all or none")
    return tuple(names), tuple(wnids) or None
