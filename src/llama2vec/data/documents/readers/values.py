"""Texts → numbers and truth values, where writing the value gives the text back."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from math import isfinite

from llama2vec.data.text.words import estimated_words
from llama2vec.records import Value

_PLAIN = re.compile(r"(?:0|-?[1-9][0-9]{0,14})|-?(?:0|[1-9][0-9]{0,14})\.(?P<decimals>[0-9]{1,15})")
_SCIENTIFIC = re.compile(r"-?[0-9](?:\.[0-9]{1,15}[eE][-+]?|[eE][-+])[0-9]{1,3}")
"""As programs write very small and large numbers: with a point or a sign, which 12E5 and the commit 1234e56 lack."""
_NUMBER = re.compile(r"[-+]?[0-9][0-9.,]*(?:[eE][-+]?[0-9]+)?")
_NOT_ASKED_FOR = re.compile(rf"^{_NUMBER.pattern}(?:[,;\s]+{_NUMBER.pattern}){{3,}}$|[!-~]{{100}}")
"""Four numbers or more and nothing else; a word of a hundred letters, as of an encoded picture."""
_MENTIONED_WORDS = 60
_TRUTH = {"true": True, "false": False}


def typed(text: str) -> Value:
    """Return a text as a number or a truth value where it is one and nothing of it is lost, else as it is.

    >>> typed("12"), typed("1.5"), typed("1.10"), typed("007"), typed("+49"), typed("1234e56"), typed("yes")
    (12, 1.5, '1.10', '007', '+49', '1234e56', 'yes')
    """
    column = Column()
    column.add(text)
    return text if column.is_padded else column.value(text)


def shown(cell: Value) -> str:
    """Return a cell as a spreadsheet shows it.

    >>> shown(2021.0), shown(True), shown("a")
    ('2021', 'TRUE', 'a')
    """
    if isinstance(cell, bool):
        return str(cell).upper()
    return str(_whole(cell)) if isinstance(cell, float) else str(cell)


def labeled(cells: Mapping[str, Value], without: Collection[str] = ()) -> str:
    """Return cells with their names as one text, except those that say just what is in ``without``.

    >>> labeled({"customer": "Müller", "year": 2021.0, "subject": "Pump"}, without=["Pump"])
    'customer: Müller; year: 2021'
    """
    texts = {name: shown(cell) for name, cell in cells.items()}
    return "; ".join(f"{name}: {text}" for name, text in texts.items() if text and text not in without)


def mentioned(cells: Mapping[str, Value], without: Collection[str]) -> str:
    """Return what :func:`labeled` does of the cells that somebody may ask for, as far as there is room beside a text.

    Texts come before numbers where there are more than fit. Lists of numbers and encoded files are left out.

    >>> mentioned({"row": 17, "customer": "Müller", "embedding": ", ".join(["0.25"] * 9)}, without=())
    'row: 17; customer: Müller'
    """
    texts = {name: text for name, cell in cells.items() if not _NOT_ASKED_FOR.search(text := shown(cell))}
    room, chosen = _MENTIONED_WORDS, set()
    for name in sorted(texts, key=lambda name: _NUMBER.fullmatch(texts[name]) is not None):
        room -= estimated_words(texts[name]) + 1
        if room >= 0:
            chosen.add(name)
    return labeled({name: cell for name, cell in cells.items() if name in chosen}, without)


class Column:
    """What the cells of a column are: all numbers, all truth values, or text."""

    def __init__(self) -> None:
        self._kinds: set[str] = set()
        self._decimals: set[int] = set()  # How many each number has that is written as text; -1 = a power of ten
        self.is_padded = False  # A number ends in zeros, as prices do and version 1.10 does

    def add(self, cell: Value) -> None:
        """Take one more cell into account; a blank one is none."""
        if "text" in self._kinds:
            return
        if not isinstance(cell, str):
            self._kinds.add("truth" if isinstance(cell, bool) else "number")
        elif cell.lower() in _TRUTH:
            self._kinds.add("truth")
        else:
            self._kinds.add("number" if self._is_number(cell) else "text")

    def _is_number(self, text: str) -> bool:
        if _SCIENTIFIC.fullmatch(text):
            self._decimals.add(-1)
            number = float(text)
            return isfinite(number) and (number != 0 or not re.match(r"[-0.]*[1-9]", text))
        match = _PLAIN.fullmatch(text)
        if match is None:
            return False
        decimals = match["decimals"] or ""
        self._decimals.add(len(decimals))
        self.is_padded |= len(decimals) > 1 and decimals.endswith("0")
        return not decimals or f"{float(text):.{len(decimals)}f}" == text

    def value(self, cell: Value) -> Value:
        """Return a cell as a value of what the whole column is; what a spreadsheet keeps as a value stays one."""
        if not isinstance(cell, str):
            return _whole(cell) if isinstance(cell, float) else cell
        if self._kinds == {"truth"}:
            return _TRUTH[cell.lower()]
        # Zeros at the end say nothing only where every number has as many decimals.
        if self._kinds == {"number"} and not (self.is_padded and len(self._decimals) > 1):
            return int(cell) if cell.removeprefix("-").isdecimal() else float(cell)
        return cell


def _whole(number: float) -> int | float:
    """Return a number as a whole one where it is: spreadsheets have only one kind."""
    return int(number) if number.is_integer() and abs(number) < 1e15 else number
