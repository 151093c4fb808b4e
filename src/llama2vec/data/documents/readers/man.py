"""Manual pages in roff (man and mdoc macros): the words without the markup, sections as headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers.building import TextBuilder
from llama2vec.data.documents.readers.encodings import decoded
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import UnreadableError

_CHARACTERS = {
    "aq": "'", "dq": '"', "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "bu": "•", "em": "—", "en": "–", "co": "©",
    "mi": "−", "ha": "^", "ti": "~", "rs": "\\", "ga": "`", "hy": "-", "(c": "©", "Fo": "«", "Fc": "»", "mu": "×",
    "->": "→", "<-": "←", ">=": "≥", "<=": "≤", "!=": "≠", "+-": "±", "de": "°", "sc": "§", "lB": "[", "rB": "]",
    "at": "@", "sh": "#", "Do": "$", "ba": "|", "sl": "/", "pl": "+", "eq": "=", "ss": "ß", "tm": "™", "rg": "®",
}  # fmt: skip
_ESCAPE = re.compile(
    r"\\(?:f(?:\[[^\]]{0,60}\]|\(..|.)|s[-+]?\d+|s\[[^\]]{0,60}\]|[mMFk](?:\[[^\]]{0,60}\]|\(..|.)|\*(?:\[[^\]]{0,60}\]|\(..|.)"
    r"|[hvwoDlLZXbSRHNA]'[^']{0,200}'|\[(?P<named>[^\]]{0,60})\]|\((?P<two>..)|n(?:\[[^\]]{0,60}\]|\(..|.)|(?P<one>.)|$)"
)
_ONE = {"-": "-", "e": "\\", "\\": "\\", "'": "'", "`": "`", " ": " ", "0": " ", "~": " ", "t": "\t", ".": "."}
_HEADINGS = {"SH": 1, "Sh": 1, "SS": 2, "Ss": 2}
_BREAKS_NAMES = "PP P LP IP TP TQ HP Pp It sp RS RE Bl El Bd Ed br"
_BREAKS = frozenset(_BREAKS_NAMES.split())
_CODE_BEGINS, _CODE_ENDS = frozenset(("nf", "EX", "Bd")), frozenset(("fi", "EE", "Ed"))
_FONTS_NAMES = "B I R BI BR IB IR RB RI SM SB"
_FONTS = frozenset(_FONTS_NAMES.split())
_TEXT_NAMES = (
    "IP It UR MT SY OP Nd Fl Ar Cm Nm Pa Xr Sy Em Li Ql Dq Sq Pq Bq Op Oo Oc Ic Va Vt Fn Fa Ft Fd Ev Er Dv Dl D1 Lk "
    "Mt An Aq Qq No Ns Ta Sx St In Cd Tn Ux Bx Fx Nx Ox Ad Ms Brq Ao Ac Bo Bc Po Pc"
)
_TAKES_TEXT = _FONTS | frozenset(_TEXT_NAMES.split())
_MDOC_NAMES = "Fl Ar Cm Nm Pa Xr Sy Em Li Ql Dq Sq Pq Bq Op Oo Oc Ic Va Vt Fn Fa Ft Ev Er Dv No Ns Ta Sx Nd"
_MDOC = frozenset(_MDOC_NAMES.split())
_ENCLOSING = {
    "Dq": "“”",
    "Qq": '""',
    "Sq": "‘’",
    "Ql": "‘’",
    "Pq": "()",
    "Bq": "[]",
    "Op": "[]",
    "Aq": "<>",
    "Brq": "{}",
}
_CLOSING = frozenset(".,:;)]?!")


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document]:
    """Yield the page as one document, ``NAME(SECTION)`` its title."""
    lines = decoded(data, settings.encoding).split("\n")
    if lines[0].startswith(".so ") and len(lines) < 4:
        raise UnreadableError(f"only stands for {lines[0][4:].strip()}")
    page = _Page()
    for line in lines:
        page.line(line)
    page.flush()
    if not page.title:  # Another text whose name ends like a manual page's: NEWS.1
        yield Document(name, "\n".join(lines))
        return
    yield page.builder.document(name, title=page.title)


class _Page:
    def __init__(self) -> None:
        self.builder = TextBuilder()
        self.title = self._name = ""
        self._paragraph: list[str] = []
        self._code = self._ignored = False
        self._tag = 0  # The next text line is the term of a list

    def line(self, line: str) -> None:
        """Take the next line of the source."""
        if self._ignored:
            self._ignored = line.strip() != ".."
        elif line[:1] in (".", "'") and not line.startswith("\\&"):
            macro, _, rest = line[1:].lstrip().partition(" ")
            if not macro.startswith('\\"'):
                self._macro(macro, rest.strip())
        elif not line.strip() and not self._code:
            self.flush()
        else:
            self._text(plain(line))

    def _text(self, text: str) -> None:
        self._paragraph.append(text)
        if self._tag:
            self._tag -= 1
            if not self._tag:
                self._paragraph.append("\n")

    def _macro(self, macro: str, rest: str) -> None:
        if macro in ("TH", "Dt"):
            words = _arguments(rest)
            section = f"({plain(words[1])})" if len(words) > 1 else ""
            self.title = f"{plain(words[0])}{section}" if words else ""
        elif macro in ("de", "ig", "am"):
            self._ignored = True
        elif macro in _HEADINGS:
            self.flush()
            self._code = False
            self.builder.heading(_HEADINGS[macro], plain(" ".join(_arguments(rest))))
        elif macro in _CODE_BEGINS or macro in _CODE_ENDS:
            self.flush()
            self._code = macro in _CODE_BEGINS
        else:
            if macro in _BREAKS:
                self.flush()
                self._tag = int(macro in ("TP", "TQ"))
            if macro in _TAKES_TEXT and (rest or macro == "Nm"):
                self._text(self._words(macro, rest))
                if macro in ("IP", "It"):
                    self._paragraph.append("\n")

    def _words(self, macro: str, rest: str) -> str:
        arguments = _arguments(rest)
        if macro == "IP":
            return plain(arguments[0]) if arguments else ""
        if macro in _FONTS:
            return plain(("" if len(macro) == 2 and macro not in ("SM", "SB") else " ").join(arguments))
        return self._mdoc([macro, *arguments] if macro != "It" else arguments)

    def _mdoc(self, words: list[str]) -> str:
        """Return the words of an mdoc line, whose macros stand among them."""
        found: list[str] = []
        closing = ""
        flag = False
        if words[:1] == ["Nm"]:
            self._name = self._name or (words[1] if len(words) > 1 else "")
            words = words if len(words) > 1 and words[1] not in _MDOC else ["Nm", self._name, *words[1:]]
        for word in words:
            if word in _ENCLOSING:
                found.append(_ENCLOSING[word][0] + "\0")
                closing = _ENCLOSING[word][1] + closing
            elif word in _MDOC:
                flag = word == "Fl"
                found += ["—"] if word == "Nd" else []
            elif word in _CLOSING:
                found.append("\0" + word)
            else:
                found.append(f"-{plain(word)}" if flag else plain(word))
        text = " ".join(found + ["\0" + mark for mark in closing])
        return text.replace("\0 ", "").replace(" \0", "").replace("\0", "")

    def flush(self) -> None:
        """End the paragraph."""
        if self._code:
            self.builder.add("\n".join(line for line in self._paragraph if line != "\n"), "code")
        else:
            lines = " ".join(self._paragraph).split("\n")
            self.builder.add("\n".join(" ".join(line.split()) for line in lines))
        self._paragraph = []


def _arguments(rest: str) -> list[str]:
    lexer = shlex.shlex(rest, posix=True)
    lexer.whitespace_split, lexer.quotes, lexer.escape, lexer.commenters = True, '"', "", ""
    try:
        return [word for word in lexer if not word.startswith('\\"')]
    except ValueError:  # a quote that nothing closes
        return rest.replace('"', "").split()


def plain(line: str) -> str:
    r"""Return a line without roff's escapes.

    >>> plain(r"\fBgit\-add\fR \(em \(dqadds\(dq\&")
    'git-add — "adds"'
    """

    def shown(match: re.Match[str]) -> str:
        code = match["named"] or match["two"]
        if code is not None:
            if re.fullmatch("u[0-9A-F]{4,5}", code):
                return chr(int(code[1:], 16))
            return _CHARACTERS.get(code, code[0] if len(code) == 2 and code[0].isalpha() else "")
        return _ONE.get(match["one"] or "", "")

    return _ESCAPE.sub(shown, line.partition('\\"')[0])
