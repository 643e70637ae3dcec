"""Derive wordnet.tsv, the default categories, from WordNet 3.0. Run by hand, only when the rules change.

    apt-get install wordnet-base
    python -m tagger.tags.derive_wordnet /usr/share/wordnet/data.noun > tagger/tags/wordnet.tsv

Reads the hypernyms of the 1000 ImageNet classes from `data.noun` (a wnid is `n` + the byte offset of a
line), keeps the synsets that wordnet_rules.tsv lists, under the plain names it gives, and hangs every
class on its nearest kept ancestors. Same input, same bytes out.

The table has three tab-separated columns. A class is a row `wnid, tag, parents`, a category a row
`-, category, parents`; parents are names joined by `|`, and `-` where there is none. Classes come first,
in the order of ImageNet, then categories, each before its parents.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

RULES: Final = Path(__file__).with_name("wordnet_rules.tsv")

HEADER: Final = """\
# The 1000 ImageNet classes and their categories, derived from WordNet 3.0 by derive_wordnet.py.
# WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved. See WORDNET_LICENSE.txt.
# wnid (- for a category)	name	parents
"""


@dataclass
class Rules:
    """What wordnet_rules.tsv says, one field per kind of line; names and synsets as written there."""

    keep: dict[str, str] = field(default_factory=dict)
    cut: set[tuple[str, str]] = field(default_factory=set)
    own: dict[str, tuple[str, ...]] = field(default_factory=dict)
    place: dict[str, tuple[str, ...]] = field(default_factory=dict)
    name: dict[str, str] = field(default_factory=dict)
    also: dict[str, tuple[str, ...]] = field(default_factory=dict)
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read_rules(path: Path = RULES) -> Rules:
    """Read the rules.

    Raises:
        ValueError: A line has another shape, or repeats an earlier one.
    """
    rules = Rules()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line or line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) != 3 or fields[0] not in vars(rules):
            raise ValueError(f"{path.name} line {number}: not a rule: {line!r}")
        kind, key, value = fields
        if kind == "cut":
            rules.cut.add((key, value))
            continue
        into: dict[str, object] = getattr(rules, kind)
        if key in into:
            raise ValueError(f"{path.name} line {number}: a second `{kind}` for {key}")
        into[key] = value if kind in ("keep", "name") else split_parents(value)
    return rules


def split_parents(text: str) -> tuple[str, ...]:
    """Split the `|`-joined parents of a row; `-` is none."""
    return () if text == "-" else tuple(text.split("|"))


class WordNet:
    """The hypernyms in `data.noun` (format: WordNet manual, wndb(5))."""

    def __init__(self, data_noun: bytes) -> None:
        self._data = data_noun

    def hypernyms(self, synset: str) -> tuple[str, ...]:
        """Return the synsets directly above one, instances included, in the order of the file.

        Raises:
            ValueError: No noun starts at that offset.
        """
        start = int(synset[1:])
        line = self._data[start : self._data.find(b"\n", start)].decode("ascii")
        fields = line.split(" | ")[0].split()
        if not fields or fields[0] != synset[1:]:
            raise ValueError(f"{synset} is not in this data.noun; it must be WordNet 3.0")
        at = 4 + 2 * int(fields[3], 16)
        pointers = fields[at + 1 : at + 1 + 4 * int(fields[at])]
        return tuple(
            "n" + offset
            for symbol, offset, part in zip(pointers[0::4], pointers[1::4], pointers[2::4], strict=True)
            if symbol in ("@", "@i") and part == "n"
        )


def nearest_kept(synset: str, wordnet: WordNet, rules: Rules) -> set[str]:
    """Return the names of the kept synsets first met on every way up from `synset`, itself excluded."""
    found: set[str] = set()
    for above in wordnet.hypernyms(synset):
        if (synset, above) in rules.cut:
            continue
        if above in rules.keep:
            found.add(rules.keep[above])
        else:
            found |= nearest_kept(above, wordnet, rules)
    return found


def category_parents(wordnet: WordNet, rules: Rules) -> dict[str, set[str]]:
    """Return the parents of every category, redundant ones still among them."""
    parents: dict[str, set[str]] = {name: set() for name in [*rules.keep.values(), *rules.own]}
    for synset, name in rules.keep.items():
        parents[name] |= nearest_kept(synset, wordnet, rules) - {name}
    for name, given in [*rules.own.items(), *rules.place.items()]:
        if name not in parents:
            raise ValueError(f"`place` of an unknown category: {name}")
        parents[name] = set(given)
    unknown = {p for above in parents.values() for p in above} - set(parents)
    if unknown:
        raise ValueError(f"unknown categories: {sorted(unknown)}")
    return parents


def ancestors(name: str, parents: dict[str, set[str]], path: tuple[str, ...] = ()) -> set[str]:
    """Return every category above one.

    Raises:
        ValueError: The categories form a ring.
    """
    if name in path:
        raise ValueError(f"a ring of categories: {' > '.join([*path, name])}")
    above = parents[name]
    return above.union(*(ancestors(parent, parents, (*path, name)) for parent in above))


def without_redundant(found: set[str], parents: dict[str, set[str]]) -> set[str]:
    """Drop parents that are also ancestors of another parent: cat says animal already."""
    return found - {above for name in found for above in ancestors(name, parents)}


def derive(data_noun: bytes, wnids: list[str], names: list[str], rules: Rules) -> str:
    """Return the text of wordnet.tsv.

    Args:
        data_noun: WordNet's noun file.
        wnids: WordNet id of each ImageNet class.
        names: The model's word for each class.
        rules: See wordnet_rules.tsv.

    Raises:
        ValueError: The rules name something that does not exist, or two rows would share a name.
    """
    wordnet = WordNet(data_noun)
    parents = category_parents(wordnet, rules)
    unknown = ({*rules.name, *rules.also, *rules.only} - set(names)) | (
        {name for given in [*rules.also.values(), *rules.only.values()] for name in given} - set(parents)
    )
    if unknown:
        raise ValueError(f"rules about unknown classes or categories: {sorted(unknown)}")
    rows = []
    used: set[str] = set()
    for wnid, name in zip(wnids, names, strict=True):
        found = set(rules.only.get(name, ())) or nearest_kept(wnid, wordnet, rules)
        kept = sorted(without_redundant(found | set(rules.also.get(name, ())), parents))
        rows.append((wnid, rules.name.get(name, name), kept))
        used.update(kept, *(ancestors(one, parents) for one in kept))
    # A category has more ancestors than each of its parents, so it comes before them.
    height = {name: len(ancestors(name, parents)) for name in parents}
    by_height = sorted(used, key=lambda one: (-height[one], one))
    rows += [("-", name, sorted(without_redundant(parents[name], parents))) for name in by_height]
    if idle := set(parents) - used:
        raise ValueError(f"categories without a class: {sorted(idle)}")
    seen: dict[str, str] = {}
    for wnid, name, _ in rows:
        if other := seen.setdefault(name.casefold(), wnid + name) != wnid + name:
            raise ValueError(f"two rows are named {name!r}: {other}, {wnid}")
    return HEADER + "".join(f"{wnid}\t{name}\t{'|'.join(above) or '-'}\n" for wnid, name, above in rows)


def imagenet_classes() -> tuple[list[str], list[str]]:
    """Return (wnids, names) of the ImageNet classes as the packages of the models list them."""
    import timm
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    synsets = Path(timm.__file__).parent / "data" / "_info" / "imagenet_synsets.txt"
    return synsets.read_text(encoding="ascii").split(), list(_IMAGENET_CATEGORIES)


if __name__ == "__main__":
    sys.stdout.write(derive(Path(sys.argv[1]).read_bytes(), *imagenet_classes(), read_rules()))
