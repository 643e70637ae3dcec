"""Build the taxonomy of a model from its labels, the default categories and the user's file."""

from collections import Counter
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Final

from tagger.errors import TaxonomyError
from tagger.tags.statements import Statement, fault, read_statements, suggest
from tagger.tags.taxonomy import Entry, Taxonomy, walk_up
from tagger.tags.wordnet import default_table

_UNSEEN: Final = "\0"
"""Marks the keys of default categories where the file says `defaults off`: they still stand for the labels
below them, and the file may use their names for categories of its own (no file can write this mark)."""


def load_taxonomy(
    file: Path | str | None, labels: Sequence[str], wnids: Sequence[str] | None = None
) -> Taxonomy:
    """Return the taxonomy of a model.

    Args:
        file: What the user wants otherwise, TSV or YAML (docs/taxonomy.md); None for the defaults.
        labels: The model's words, in the order of its outputs.
        wnids: WordNet id of each label; None for a model with other classes, which has no default
            categories.

    Raises:
        TaxonomyError: The file cannot be used; names the line. Or the model has no labels.
    """
    statements = read_statements(Path(file)) if file is not None else []
    use_defaults = not any(one.kind == "defaults" and one.value == "off" for one in statements)
    draft = _Draft(labels, wnids, use_defaults=use_defaults)
    if file is not None:
        _Editor(Path(file), statements, draft, labels, wnids).apply()
    taxonomy = draft.finish()
    taxonomy.validate()
    return taxonomy


class _Draft:
    """A taxonomy under construction: labels by position, categories by their name before renaming."""

    def __init__(self, labels: Sequence[str], wnids: Sequence[str] | None, *, use_defaults: bool) -> None:
        if not labels:
            raise TaxonomyError("the model has no labels")
        if wnids is not None and len(wnids) != len(labels):
            raise TaxonomyError(f"the model has {len(labels)} labels, but {len(wnids)} WordNet ids")
        table = default_table()
        known = [table.tags.get(wnid) for wnid in wnids] if wnids is not None else [None] * len(labels)
        reached = {name for row in known if row for name in row[1]}
        reached |= {above for name in reached for above in walk_up(name, table.categories)}

        mark = "" if use_defaults else _UNSEEN
        self.use_defaults = use_defaults
        self.tag_parents = [dict.fromkeys(mark + name for name in (row[1] if row else ())) for row in known]
        self.defaults = {
            mark + name: dict.fromkeys(mark + one for one in above)
            for name, above in table.categories.items()
            if name in reached
        }
        self.own: dict[str, dict[str, None]] = {}
        self.names = _unique([row[0] if row else None for row in known], labels, sorted(reached))
        self.renamed: dict[str | int, str] = {}
        self.hidden: set[str | int] = set()
        self.thresholds: dict[str | int, float] = {}

    def parents(self) -> dict[str, tuple[str, ...]]:
        """Return the parents of every category, default or own."""
        return {name: tuple(above) for name, above in (self.defaults | self.own).items()}

    def finish(self) -> Taxonomy:
        """Return what was built."""
        own = dict(sorted(self.own.items()))  # the order of a file's lines means nothing
        nodes = self.defaults | own if self.use_defaults else own
        tag_parents = self.tag_parents
        if not self.use_defaults:
            parents = self.parents()
            tag_parents = [
                dict.fromkeys(one for name in above for one in _nearest(name, parents, self.own))
                for above in tag_parents
            ]

        def entry(key: str | int, name: str, parents: dict[str, None]) -> Entry:
            above = tuple(self.renamed.get(parent, parent) for parent in nodes if parent in parents)
            return Entry(self.renamed.get(key, name), above, key in self.hidden, self.thresholds.get(key))

        tags = [entry(at, name, tag_parents[at]) for at, name in enumerate(self.names)]
        return Taxonomy(tuple(tags), tuple(entry(name, name, above) for name, above in nodes.items()))


def _nearest(name: str, parents: dict[str, tuple[str, ...]], own: Container[str]) -> tuple[str, ...]:
    """Return a category itself if it is an own one, else the own ones first met on every way up."""
    if name in own:
        return (name,)
    return tuple(one for above in parents[name] for one in _nearest(above, parents, own))


def _unique(known: list[str | None], labels: Sequence[str], taken: list[str]) -> tuple[str, ...]:
    """Name the labels; one whose word is taken gets a number, `crane (2)`, in the order of the labels."""
    used = {name.casefold() for name in [*known, *taken] if name is not None}
    names = []
    for position, (name, label) in enumerate(zip(known, labels, strict=True)):
        if name is not None:
            names.append(name)
            continue
        word = "".join(c for c in label if c.isprintable()).strip() or f"label {position}"
        numbered, count = word, 1
        while numbered.casefold() in used:
            count += 1
            numbered = f"{word} ({count})"
        used.add(numbered.casefold())
        names.append(numbered)
    return tuple(names)


class _Editor:
    """Applies the statements of a file to a draft."""

    def __init__(
        self,
        path: Path,
        statements: list[Statement],
        draft: _Draft,
        labels: Sequence[str],
        wnids: Sequence[str] | None,
    ) -> None:
        self.path = path
        self.statements = statements
        self.draft = draft
        self.tags = {name: position for position, name in enumerate(draft.names)}
        # A model's own word, or the WordNet id, also means the label; a word that two labels share does not.
        count = Counter(labels)
        self.aliases = {label: i for i, label in enumerate(labels) if count[label] == 1}
        self.aliases |= {wnid: i for i, wnid in enumerate(wnids or ())}
        self.shared = {label for label, times in count.items() if times > 1}

    def apply(self) -> None:
        """Apply every statement.

        Raises:
            TaxonomyError: One cannot be applied.
        """
        draft = self.draft
        categories = [one for one in self.statements if one.kind == "category"]
        for statement in categories:
            self._declare(statement)
        for statement in categories:
            self._link(statement)
        seen: dict[tuple[str, str | int, str], int] = {}
        for statement in self.statements:
            if statement.kind == "category":
                key = self._find(statement, under=statement.value)
            else:
                key = self._find(statement) if statement.name else ""
            which = (statement.kind, key, statement.value if statement.kind == "category" else "")
            if which in seen:
                about = f" of {statement.name!r}" if statement.name else ""
                text = f"a second {statement.kind!r}{about}, the first is on line {seen[which]}"
                raise self._fault(statement, text)
            seen[which] = statement.line
            if statement.kind == "hide":
                draft.hidden.add(key)
            elif statement.kind == "threshold":
                draft.thresholds[key] = statement.number
            elif statement.kind == "rename":
                if key in draft.own:
                    text = f"{statement.name!r} is a name this file gives; give the one you want instead"
                    raise self._fault(statement, text)
                draft.renamed[key] = statement.value
        self._check_names()

    def _fault(self, statement: Statement, text: str) -> TaxonomyError:
        return fault(self.path, statement.line, text)

    def _declare(self, statement: Statement) -> None:
        """Make the category on the right of a statement, unless it is there."""
        name = statement.value
        if name in self.tags:
            raise self._fault(statement, f"{name!r} is a tag; a category needs another name")
        if name not in self.draft.defaults:
            self.draft.own.setdefault(name, {})

    def _find(self, statement: Statement, *, under: str | None = None) -> str | int:
        """Return the label (its position) or category (its key) that a statement is about.

        `under` is the category it is put under, for a `category` statement: there a default category
        stands for its labels even where the defaults are off.
        """
        draft, name = self.draft, statement.name
        if name in self.tags:
            return self.tags[name]
        if name in draft.defaults or (name in draft.own and name != under):
            return name
        if _UNSEEN + name in draft.defaults:
            if under is None:
                text = f"{name!r} is a default category, and the file says `defaults off`"
                raise self._fault(statement, text)
            return _UNSEEN + name
        if name in draft.own:
            return name
        if name in self.aliases:
            return self.aliases[name]
        if name in self.shared:
            raise self._fault(statement, f"{name!r} means several labels; write the tag or the WordNet id")
        for other in self.statements:
            if other.kind == "rename" and other.value == name:
                hint = f"write {other.name!r}, its name before the renaming on line {other.line}"
                raise self._fault(statement, f"unknown label or category {name!r}; {hint}")
        known = [
            *self.tags,
            *(key.removeprefix(_UNSEEN) for key in draft.defaults),
            *draft.own,
            *self.aliases,
        ]
        raise self._fault(statement, f"unknown label or category {name!r}{suggest(name, known)}")

    def _link(self, statement: Statement) -> None:
        """Put a label or category under a category."""
        draft, above = self.draft, statement.value
        key = self._find(statement, under=above)
        if isinstance(key, int):
            draft.tag_parents[key][above] = None
            return
        if way := _way(above, key, draft.parents()):
            text = f"this closes a ring of categories: {' → '.join([key, *way])}"
            raise self._fault(statement, text)
        (draft.own if key in draft.own else draft.defaults)[key][above] = None

    def _check_names(self) -> None:
        """Refuse two equal names, at the statement that made the later of them."""
        draft = self.draft
        makers: dict[str, Statement] = {}
        for statement in self.statements:
            if statement.kind == "category" and statement.value in draft.own:
                makers.setdefault(statement.value, statement)
        named: list[tuple[str, Statement | None]] = [(name, makers[name]) for name in draft.own]
        renames = {self._find(one): one for one in self.statements if one.kind == "rename"}
        keys: list[tuple[str | int, str]] = list(enumerate(draft.names))
        keys += [(name, name) for name in draft.defaults]
        for key, name in keys:
            made = renames.get(key)
            named.append((made.value if made else name, made))
        seen: dict[str, tuple[str, Statement | None]] = {}
        for name, made in named:
            other, earlier = seen.setdefault(name.casefold(), (name, made))
            if earlier is made and other == name:
                continue
            first, last = sorted([earlier, made], key=lambda one: one.line if one else 0)
            assert last is not None  # the names that no statement made are unique
            taken = f"the name given on line {first.line}" if first else "the name of a tag or category"
            spelt = "" if name == other else f", {other if last is made else name!r}"
            text = f"{last.value!r} is {taken} already{spelt}; upper and lower case count as the same"
            raise self._fault(last, text)


def _way(start: str, goal: str, parents: dict[str, tuple[str, ...]]) -> list[str] | None:
    """Return the shortest way up from one category to another, both included; None where there is none."""
    ways = [[start]]
    seen = {start}
    for way in ways:  # breadth first: the list grows while it is read
        if way[-1] == goal:
            return way
        fresh = [above for above in parents[way[-1]] if above not in seen]
        seen.update(fresh)
        ways.extend([*way, above] for above in fresh)
    return None
