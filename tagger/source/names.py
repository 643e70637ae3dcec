"""Which names are images: the rules of a listing, in one place."""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING

from tagger.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_HIDDEN = re.compile(r"(?:^|/)(?:_|\.(?!\.?(?:/|$)))")


class Globs:
    """The --include and --exclude patterns.

    A pattern is compared with the whole key below the source, and, if it holds no `/`, also with the last
    part of it. `*` matches any characters, `/` included; `?` one; `[abc]` one of them. Case counts.

    Args:
        include: Keep only what one of these matches; everything, if there are none.
        exclude: Of that, leave out what one of these matches.

    >>> globs = Globs(["*.jpg", "IMG_*"], ["raw/*"])
    >>> [globs.match(key) for key in ("a/b.jpg", "a/IMG_1", "a/c.png", "raw/d.jpg")]
    [True, True, False, False]
    """

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        include = (include,) if isinstance(include, str) else include
        exclude = (exclude,) if isinstance(exclude, str) else exclude
        self._include = _either(include, "--include")
        self._exclude = _either(exclude, "--exclude")
        # What ends in `*` and matches `folder/` matches whatever follows, too.
        open_ended = [pattern for pattern in exclude if pattern.endswith("*")]
        self._exclude_below = _either(open_ended, "--exclude")

    def match(self, key: str) -> bool:
        """Tell whether a key is kept."""
        if self._include is None and self._exclude is None:
            return True
        if self._include is not None and not _found(self._include, key):
            return False
        return self._exclude is None or not _found(self._exclude, key)

    def enter(self, folder: str) -> bool:
        """Tell whether anything below a folder may be kept, as far as --exclude tells.

        >>> globs = Globs(exclude=["lost+found/*", "*/thumbs/**", "*.png"])
        >>> [globs.enter(folder) for folder in ("lost+found", "a/thumbs", "thumbs", "a.png")]
        [False, False, True, True]
        """
        return self._exclude_below is None or self._exclude_below[1].match(f"{folder}/") is None


def _either(patterns: Sequence[str], option: str) -> tuple[re.Pattern[str] | None, re.Pattern[str]] | None:
    if not patterns:
        return None
    if "" in patterns:
        raise UsageError(f"{option} needs a pattern, got an empty one")
    whole = re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns))
    last = [fnmatch.translate(pattern) for pattern in patterns if "/" not in pattern]
    return (re.compile("|".join(last)) if last else None), whole


def _found(patterns: tuple[re.Pattern[str] | None, re.Pattern[str]], key: str) -> bool:
    last, whole = patterns
    if whole.match(key):
        return True
    return last is not None and last.match(key.rpartition("/")[2]) is not None


def is_hidden(key: str) -> bool:
    """Tell whether any part of a key, folder or file, begins with `.` or `_`, as Spark and Hive leave out.

    `.` and `..` as a whole part are no hidden names but odd ones.

    >>> [is_hidden(key) for key in ("a.jpg", ".a.jpg", "_tmp/a.jpg", "a/.b/c.jpg", "a/../b.jpg")]
    [False, True, True, True, False]
    """
    return _HIDDEN.search(key) is not None


class Names:
    """The rules for names below one root.

    Args:
        root: Canonical address of the source, without a trailing slash.
        globs: The operator's patterns.
        leave_out: Canonical address of a collection, which is never listed; None for none.
    """

    def __init__(self, root: str, globs: Globs, leave_out: str | None) -> None:
        self.root = root
        self._start = f"{root}/"
        self._globs = globs
        self._left_out = None
        if leave_out is not None:
            if leave_out == root or root.startswith(f"{leave_out}/"):
                raise UsageError(f"the source {root} lies in the collection {leave_out}")
            if leave_out.startswith(self._start):
                self._left_out = leave_out[len(self._start) :] + "/"

    def address(self, name: str) -> str:
        """Return the address of a name below the root."""
        return self._start + name

    def keep(self, name: str, size_bytes: int | None = None) -> bool:
        """Tell whether an object of this name and size is listed."""
        if is_hidden(name) or (size_bytes == 0 and (name.endswith("/") or not name)):
            return False
        if self._left_out is not None and name.startswith(self._left_out):
            return False
        return self._globs.match(name)

    def enter(self, name: str) -> bool:
        """Tell whether anything in the folder of this name may be listed."""
        return not is_hidden(name) and self._globs.enter(name)

    def covers(self, uri: str) -> bool:
        """Tell whether an address lies below the root and would be listed."""
        return uri.startswith(self._start) and self.keep(uri[len(self._start) :])
