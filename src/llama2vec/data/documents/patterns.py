"""What of a folder is left out: by patterns of paths as in .gitignore, and the indexes and stores in it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from llama2vec.data.settings import DEFAULT_EXCLUDE, ReadingSettings
from llama2vec.files import open_regular

_EXCLUDED, _NOT_INCLUDED = "excluded by ", "not among the included patterns"
INDEX = "an index or a store of llama2vec"
ON_PURPOSE = (_EXCLUDED, _NOT_INCLUDED, INDEX)
"""How the reasons begin for which a file is left out without a fault of its own."""
_INDEX_FILES, _INDEX_BYTES = ("documents.json", "store.json", "index.json"), 64
_INDEX_START = re.compile(rb'\{\s*"format": "llama2vec-')
_Matching = frozenset["_Pattern"]
_NOTHING: _Matching = frozenset()


class Patterns:
    """The patterns of ``include`` and ``exclude``. Ask about each folder before what it holds, from the top down.

    >>> patterns = Patterns(ReadingSettings(exclude=("Drafts/", "*.pdf", "!guide.pdf")))
    >>> patterns.rules_out("old/drafts", folder=True), patterns.rules_out("SCAN.PDF"), patterns.rules_out("guide.pdf")
    ('excluded by Drafts/', 'excluded by *.pdf', '')
    """

    def __init__(self, settings: ReadingSettings) -> None:
        self._include = [_Pattern(one) for one in settings.include]
        self._exclude = [_Pattern(one) for one in settings.exclude]
        self._of_folder: dict[str, _Matching] = {}  # Those that match a folder, or one above it

    def rules_out(self, name: str, *, folder: bool = False) -> str:
        """Return why a path is not read, "" where it is; a folder that is ruled out goes with all that it holds."""
        key = _key(name)
        above = self._of_folder.get(key.rpartition("/")[0], _NOTHING)
        found = above.union(one for one in (*self._include, *self._exclude) if one.fits(key, is_folder=folder))
        if folder:
            self._of_folder[key] = found
        for one in found:
            one.is_used |= not (folder and one in self._include)
        reason = ""
        for one in self._exclude:
            if one in found:
                reason = "" if one.takes_back else reason or f"{_EXCLUDED}{one.text}"
        if reason or folder or not self._include or not found.isdisjoint(self._include):
            return reason
        return _NOT_INCLUDED

    def warnings(self, told: Collection[str] = ()) -> Iterator[str]:
        """Yield a line for each pattern of the user's that matched nothing, once the whole folder was asked about.

        An earlier call has warned of patterns that are ``told``, if there was a reason.
        """
        for one in self._include:
            if not (one.is_used or one.text in told):
                yield f"the include pattern {one.text!r} matches no file; check its spelling"
        for one in self._exclude:
            # Hidden files are not read anyway, and what is taken back need not be there.
            is_known = one.text in DEFAULT_EXCLUDE or one.text in told
            if not (one.is_used or one.takes_back or one.is_hidden or is_known):
                yield f"the exclude pattern {one.text!r} leaves nothing out; check its spelling"


class _Pattern:
    """One pattern: without a slash it matches the last part of a path, else the whole path."""

    def __init__(self, text: str) -> None:
        self.text, self.takes_back, self.is_used = text, text.startswith("!"), False
        path = _key(text.removeprefix("!"))
        while path.startswith("./"):
            path = path[2:]
        whole = "**" if path == "/**" else path.removesuffix("/**")
        self._only_folders = path.endswith(("/", "/**")) and whole != "**"
        self._is_anchored = "/" in path.rstrip("/")
        *folders, last = whole.strip("/").split("/")
        self.is_hidden = any(part.startswith(".") and part.strip(".") for part in (*folders, last))
        heads = [""]
        for part in folders:
            longer = [f"{head}{part}/" for head in heads]
            heads = longer + heads if part == "**" else longer  # ``**/`` stands for any folders, also for none
        self._spellings = [f"{head}{last}" for head in heads]

    def fits(self, key: str, *, is_folder: bool) -> bool:
        """Tell whether the pattern matches a path itself, apart from the folders that the path is in."""
        if self._only_folders and not is_folder:
            return False
        path = key if self._is_anchored else key.rpartition("/")[2]
        return any(fnmatchcase(path, one) for one in self._spellings)


def is_index(folder: Path) -> bool:
    """Tell whether a folder is an index or a store: its texts are those of documents, which are read themselves."""
    for name in _INDEX_FILES:
        with suppress(OSError), open_regular(folder / name) as stream:
            if _INDEX_START.match(stream.read(_INDEX_BYTES)):
                return True
    return False


def _key(text: str) -> str:
    """Return a path or a pattern as they are compared: without case, and with accents as macOS and others write them.

    >>> _key("Entwu\\u0308rfe/SCAN.PDF")
    'entwürfe/scan.pdf'
    """
    return unicodedata.normalize("NFC", text).lower()
