"""Read a taxonomy file, TSV or YAML, into statements that know their line (format: docs/taxonomy.md)."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final, Literal

import yaml

from tagger.errors import TaxonomyError

Kind = Literal["rename", "hide", "threshold", "category", "defaults"]

COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "rename": ("rename", "NAME", "NEW NAME"),
    "hide": ("hide", "NAME"),
    "threshold": ("threshold", "NAME", "NUMBER"),
    "category": ("category", "NAME", "CATEGORY"),
    "defaults": ("defaults", "on or off"),
}
"""The columns of each kind of line in a TSV file."""

SECTIONS: Final = ("rename", "hide", "threshold", "categories", "defaults")
"""The keys of a YAML file."""

MAX_BYTES: Final = 16 << 20
"""Far above any vocabulary a person can keep; a wrong path is then an error and not a full memory."""

_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing a taxonomy file says.

    Attributes:
        kind: Of which kind.
        name: The tag or category it is about; for `defaults`, empty.
        value: New name (`rename`), category (`category`), on or off (`defaults`); else empty.
        number: The threshold, in [0, 1]; else 0.
        line: Where it stands, counted from 1.
    """

    kind: Kind
    name: str
    value: str
    number: float
    line: int


def read_statements(path: Path) -> list[Statement]:
    """Read a taxonomy file.

    Raises:
        TaxonomyError: It cannot be read, is not UTF-8, says nothing, or a line has the wrong shape.
    """
    text = _read_text(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        statements = list(_read_yaml(path, text))
    elif path.suffix.lower() == ".tsv":
        statements = list(_read_tsv(path, text))
    else:
        raise TaxonomyError(f"{path}: a taxonomy file must end in .tsv, .yaml or .yml")
    if not statements:
        raise TaxonomyError(f"{path}, line 1: the file is empty; docs/taxonomy.md shows what it can say")
    return statements


def fault(path: Path, line: int, text: str) -> TaxonomyError:
    """Return the error for one line of the file."""
    return TaxonomyError(f"{path}, line {line}: {text}")


def suggest(word: str, among: Iterator[str] | list[str] | tuple[str, ...]) -> str:
    """Return «; did you mean X?» for the nearest word, or nothing."""
    by_fold = {name.casefold(): name for name in among}
    near = get_close_matches(word.casefold(), by_fold, n=1, cutoff=0.6)
    return f"; did you mean {by_fold[near[0]]!r}?" if near else ""


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise TaxonomyError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise TaxonomyError(f"{path}: larger than {MAX_BYTES >> 20} MiB; is this a taxonomy file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # `error.object` and not `data`: without the byte order mark its offsets would be 3 bytes off.
        line = error.object[: error.start].count(b"\n") + 1
        raise fault(path, line, "not UTF-8; save the file as UTF-8") from error


def _read_tsv(path: Path, text: str) -> Iterator[Statement]:
    for line, row in enumerate(text.split("\n"), start=1):
        if not row.strip() or row.startswith("#"):
            continue
        fields = [field.strip() for field in row.split("\t")]
        kind = fields[0]
        if kind not in COLUMNS and len(fields) == 1 and kind.split()[0] in COLUMNS:
            raise fault(
                path, line, f"the columns after {kind.split()[0]!r} must be separated by one tab each"
            )
        if kind not in COLUMNS:
            raise fault(path, line, f"{kind!r} is none of {', '.join(COLUMNS)}{suggest(kind, list(COLUMNS))}")
        wanted = COLUMNS[kind]
        if len(fields) != len(wanted):
            raise fault(
                path,
                line,
                f"{kind!r} needs {len(wanted)} columns ({' TAB '.join(wanted)}), got {len(fields)}",
            )
        if kind == "defaults":
            yield Statement("defaults", "", _switch(path, line, fields[1]), 0, line)
            continue
        name = _name(path, line, fields[1])
        if kind == "hide":
            yield Statement("hide", name, "", 0, line)
        elif kind == "threshold":
            yield Statement("threshold", name, "", _threshold(path, line, fields[2]), line)
        elif kind == "rename":
            yield Statement("rename", name, _name(path, line, fields[2]), 0, line)
        else:
            yield Statement("category", name, _name(path, line, fields[2]), 0, line)


def _read_yaml(path: Path, text: str) -> Iterator[Statement]:
    """Read the node tree, not Python objects: nothing is ever constructed, and every node has its line."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise fault(path, mark.line + 1 if mark else 1, f"not YAML: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise fault(path, line, f"not YAML: a character that must not be there, {error.reason}") from error
    except RecursionError as error:
        raise fault(path, 1, "not a taxonomy: nested hundreds of levels deep") from error
    if root is None:
        return
    for section, line, node in _pairs(path, root, "the file"):
        if section not in SECTIONS:
            near = suggest(section, SECTIONS)
            raise fault(path, line, f"{section!r} is none of {', '.join(SECTIONS)}{near}")
        if section == "defaults":
            yield Statement("defaults", "", _switch(path, line, _scalar(path, node, any_tag=True)), 0, line)
        elif section == "hide":
            for name, at in _items(path, node, "hide"):
                yield Statement("hide", name, "", 0, at)
        elif section == "categories":
            for category, _, children in _pairs(path, node, "categories"):
                for name, at in _items(path, children, f"the category {category!r}"):
                    yield Statement("category", name, category, 0, at)
        elif section == "rename":
            for name, at, value in _pairs(path, node, "rename"):
                yield Statement("rename", name, _scalar(path, value), 0, at)
        else:
            for name, at, value in _pairs(path, node, "threshold"):
                number = _threshold(path, _line(value), _scalar(path, value, any_tag=True))
                yield Statement("threshold", name, "", number, at)


def _pairs(path: Path, node: yaml.Node, what: str) -> Iterator[tuple[str, int, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        raise fault(path, _line(node), f"{what} must be a mapping (lines of `key: value`)")
    seen: dict[str, int] = {}
    for key, value in node.value:
        name, line = _scalar(path, key), _line(key)
        if name in seen:
            raise fault(path, line, f"{name!r} stands here a second time, first on line {seen[name]}")
        seen[name] = line
        yield name, line, value


def _items(path: Path, node: yaml.Node, what: str) -> Iterator[tuple[str, int]]:
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        raise fault(path, _line(node), f"{what} must be a list of names")
    for item in node.value:
        yield _scalar(path, item), _line(item)


def _scalar(path: Path, node: yaml.Node, *, any_tag: bool = False) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise fault(path, _line(node), "a single name or number must stand here")
    if any_tag:
        return str(node.value)
    if node.tag != "tag:yaml.org,2002:str":
        raise fault(path, _line(node), f"YAML does not read {node.value!r} as a name; put it in quotes")
    return _name(path, _line(node), node.value)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _name(path: Path, line: int, text: str) -> str:
    name = text.strip()
    if not name:
        raise fault(path, line, "a name is empty")
    if len(name) > 200 or not name.isprintable():
        raise fault(
            path,
            line,
            f"a name must be printable and at most 200 characters: {name:.40}".encode(
                "unicode_escape"
            ).decode("ascii"),
        )
    return name


def _switch(path: Path, line: int, text: str) -> str:
    if text not in ("on", "off"):
        raise fault(path, line, f"defaults must be on or off, got {text!r}")
    return text


def _threshold(path: Path, line: int, text: str) -> float:
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not 0 <= number <= 1:
        raise fault(path, line, f"a threshold must be a number from 0 to 1, got {text!r}")
    return number
