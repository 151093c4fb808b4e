"""Bytes → text: byte order marks, UTF-8, declared encodings, and guesses where nothing is declared."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from contextlib import suppress

from llama2vec.errors import UnreadableError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # Before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_GUESSED_BYTES = 2**16
"""An encoding is guessed from this many bytes around the first one that is not ASCII."""
_LATIN_SCRIPT = ("cp1252", "cp1250", "cp1254", "cp1257", "iso8859_2")
_OTHER_SCRIPTS = (
    "cp1251 cp1253 cp1255 cp1256 iso8859_5 iso8859_6 iso8859_7 iso8859_8 koi8_r koi8_u cp855 cp866 mac_cyrillic cp874 "
    "cp932 euc_jp gb18030 big5 big5hkscs cp949 johab"
)
"""Encodings to guess from; those of DOS and old Macs for Latin letters fit short texts of any language too well."""
_READ_AS = {
    "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "iso8859-9": "cp1254",
    "iso8859-11": "cp874", "tis-620": "cp874",
}  # fmt: skip
"""What files in a declared encoding hold as a rule: a larger one, as browsers have it (WHATWG, Encoding)."""
_JAPANESE_MAIL = re.compile(rb"\x1b\$[@B]")
"""Switches ISO 2022-JP, whose bytes are all ASCII, from Latin letters to Japanese ones."""
_BIG5 = re.compile(rb"[\xa1-\xf9][\x40-\x7e\xa1-\xfe]|[\x80-\xff]")
"""A sign in Big5, or a byte that belongs to none."""
_RARE_BIG5 = b"\xc9\x40"
"""The first of the rare signs; before it stand those that Taiwan teaches in school."""
_PORTUGUESE = re.compile("ç(?:ão|ões)".encode("cp1252"))
_WESTERN_LETTERS = frozenset("åäöæøéèàçêñüßíóúáâîôûëïœ" + "“”‘’„‚–—…•€°§«»\xa0")
"""Letters of Western Europe and the punctuation beside them whose bytes seldom are letters elsewhere."""
_EASTERN = re.compile(r"\bè[a-qt-záéíóú]|ñ\b|œ[klmnpwæ]|[ijkwz]ê\b|[a-z]â\b|^[^«]*[^\W\d_]»")
"""Beginnings and ends of words that only other languages have: č in Czech, ń, ś and ę in Polish, ā in Latvian, ť."""
_WESTERN = frozenset(("ascii", "iso8859-1", "cp1252"))
_QUOTES_OF_WINDOWS = {
    code: letter for code in range(0x80, 0xA0) if (letter := bytes([code]).decode("cp1252", errors="ignore"))
}
_WAY_OUT = "name its encoding, as in --set reading.encoding=koi8-r, or save it as UTF-8"
DAMAGED = "\ufdd0"
"""Stands for bytes that the encoding does not know, until ``read_bytes`` counts them. Unicode keeps the code point
free for such uses."""
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_MOST_CONTROL = 0.02


def decoded(data: bytes, encoding: str = "auto", declared: str | None = None) -> str:
    r"""Return the text of a file, without a byte order mark and with ``\n`` as its line ends.

    ``auto`` follows the byte order mark, else takes UTF-8 where the bytes are valid but for a few, else what the file
    declares, else what charset-normalizer finds. Bytes that it does not know become :data:`DAMAGED`.

    Raises:
        UnreadableError: The bytes are not text in that encoding, or hold too many control characters.

    >>> decoded(b"\xff\xfea\x00\r\x00\n\x00"), decoded("naïve café".encode("latin-1"), declared="latin-1")
    ('a\n', 'naïve café')
    """
    text = _decoded(data, encoding, declared).removeprefix("\ufeff")
    sample = text[:4096]
    if "\0" in sample or len(_CONTROL.findall(sample)) > max(1, _MOST_CONTROL * len(sample)):
        raise UnreadableError("holds binary data, not text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decoded(data: bytes, encoding: str, declared: str | None) -> str:
    if encoding != "auto":
        return _with(data, encoding)
    for mark, name in _MARKS:
        if data.startswith(mark):
            return _marked(data, name, least=0) or _with(data, name)
    if _JAPANESE_MAIL.search(data[:_GUESSED_BYTES]) and (text := _marked(data, "iso2022_jp", least=20)):
        return text
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        first = error.start
    # Hardly another text has two letters that are valid UTF-8 for each that is not.
    if text := _marked(data, "utf-8", least=2):
        return text
    found = None
    with suppress(LookupError, UnicodeError):  # Neither a codec for texts, nor one that can replace damage
        found = _in(data, codecs.lookup(declared).name) if declared else None
    return _guessed(data, first) if found is None else found


def _with(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UnreadableError(f"is not {encoding} at byte {error.start:,}") from None


def _in(data: bytes, encoding: str) -> str | None:
    """Return a text in an encoding that is probably the right one, None where it is not."""
    if encoding in _WESTERN:
        return data.decode("latin-1").translate(_QUOTES_OF_WINDOWS)
    return _marked(data, _READ_AS.get(encoding, encoding), least=20)


def _marked(data: bytes, encoding: str, *, least: int) -> str | None:
    """Return a text with marks for damage, None unless it has ``least`` letters beyond ASCII for each of them."""
    with suppress(UnicodeDecodeError):
        return data.decode(encoding)
    text = data.decode(encoding, errors="replace")
    damaged = text.count("\ufffd")
    letters = len(text) - len(text.encode("ascii", errors="ignore")) - damaged
    if letters < least * damaged or damaged > len(text) / 2:
        return None
    return text.replace("\ufffd", DAMAGED)


def _guessed(data: bytes, first: int) -> str:
    if b"\0" in data[:4096]:
        raise UnreadableError("holds binary data, not text")
    begin = max(0, first - _GUESSED_BYTES // 2)
    lines = data[begin : begin + _GUESSED_BYTES].splitlines(keepends=True)
    sample = b"".join(line for line in lines if not line.isascii())
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        raise UnreadableError("is not UTF-8; other encodings need pip install 'llama2vec[documents]'") from None
    is_latin_script = _is_latin_script(sample)
    others = [] if is_latin_script else _OTHER_SCRIPTS.split()
    # charset-normalizer looks at pieces, and rejects every encoding where one of them holds a ruler or markup alone: it
    # gets the lines that are not ASCII, then their words that are not.
    for letters in (sample, b" ".join(word for word in sample.split() if not word.isascii())):
        matches = from_bytes(letters, cp_isolation=[*_LATIN_SCRIPT, *others])
        best = matches.best()
        if best is not None:
            break
    if best is None and not is_latin_script:
        raise UnreadableError(f"its encoding is unknown; {_WAY_OUT}")
    tied = [one for one in matches if best and (one.chaos, one.coherence) == (best.chaos, best.coherence)]
    names = {name for one in tied for name in one.could_be_from_charset}
    found = _likeliest(sample, best.encoding if best and "cp1252" not in names else "cp1252")
    text = _in(data, found)
    if text is None:
        raise UnreadableError(f"is neither UTF-8 nor {found} throughout; {_WAY_OUT}")
    return text


def _likeliest(sample: bytes, found: str) -> str:
    """Return another encoding than charset-normalizer found where letters tell them apart."""
    if found not in _LATIN_SCRIPT:
        return "euc_jp" if _is_euc_jp(sample) else found
    if _PORTUGUESE.search(sample):
        return "cp1252"
    western = sample.decode("cp1252", errors="replace").lower()
    tells = _language_tells(western)
    if not tells and _is_western(western):
        return "cp1252"
    if found != "iso8859_2":
        found = tells or found
    if found == "cp1250":
        text = sample.decode("cp1250", errors="replace")
        # Letters of ISO 8859-2: ą and ś in Polish, š, ť and ľ in its neighbors
        is_iso = re.search(r"[^\W\d_][±¶µ]", text) or (re.search(r"[^\W\d_]»", text) and "«" not in text)
        return "iso8859_2" if is_iso or ("ą" in text and re.search("[ěřůčđ]", text)) else found
    return found


def _is_western(text: str) -> bool:
    """Tell whether a text that was read in cp1252 holds letters of Western Europe alone, and used as they are there.

    >>> [_is_western(text) for text in ("på", "où – déjà", "dzieñ", "mo¿na", "èas", "bøeh; èlen")]
    [True, True, False, False, False, False]
    """
    letters = {letter for letter in re.sub(r"\boù\b", "", text) if not letter.isascii()}
    return letters <= _WESTERN_LETTERS and not (_EASTERN.search(text) or {"è", "ø"} <= letters or {"è", "æ"} <= letters)


def _is_latin_script(sample: bytes) -> bool:
    """Tell whether most letters that are not ASCII stand alone, unlike the letters of other scripts."""
    runs = re.findall(rb"[\x80-\xff]+", sample)
    # These three begin the kana of Shift JIS, whose second byte can be ASCII.
    return sum(map(len, runs)) < 2 * len(runs) and not re.search(rb"[\x81-\x83]", sample) and not _is_big5(sample)


def _is_big5(sample: bytes) -> bool:
    """Tell whether a text is Chinese in Big5, where the second byte of four signs in ten is ASCII.

    >>> _is_big5("名 稱 與 說 明".encode("big5")), _is_big5("Wartość można podać później".encode("iso8859_2"))
    (True, False)
    """
    signs = _BIG5.findall(sample)
    common = [sign for sign in signs if len(sign) == 2 and sign < _RARE_BIG5]
    # A letter of a Latin script is as a rule followed by another one, which is ASCII.
    before_letters = sum(sign[1:].isalpha() for sign in common)
    return 20 * len(common) >= 19 * len(signs) and 2 * before_letters < len(common)


def _is_euc_jp(sample: bytes) -> bool:
    """Tell whether a text is Japanese in EUC-JP, which is also well-formed Big5."""
    text = sample.decode("euc_jp", errors="replace")
    kana = len(re.findall("[\u3041-\u30fe]", text))
    return 4 * kana > len(text) - len(text.encode("ascii", errors="ignore")) and text.count("\ufffd") < 3


def _language_tells(text: str) -> str:
    """Return the encoding of a text that was read in that of Western Europe and holds what no language there has.

    >>> [_language_tells(text) for text in ("tükörfúrógépet õ", "žluouèký", "baþ aðzý", "milhões; coûté; ¿sí? þá")]
    ['cp1250', 'cp1250', 'cp1254', '']
    """
    text = text.lower()
    has = set(text).intersection
    counts = Counter(text)

    def times(letters: str) -> int:
        return sum(counts[letter] for letter in letters)

    if has("ý") and has("ðþ") and times("ýðþ") > 4 * times("áíóæ"):
        return "cp1254"  # Turkish, not Icelandic
    if _is_baltic(text, counts):
        return "cp1257"
    is_estonian = has("õ") and times("ä") > times("áéíóú")  # In Hungarian, ő and ä hardly share a text.
    is_faroese = {"ð", "ø"} <= set(text)
    if is_estonian or is_faroese:
        return "cp1252"
    # French and Danish hold š and ž in names alone.
    has_carons = times("šž") > times("àåçêñ") or (has("èìøù") and re.search("¾[a-z]", text))
    is_czech = has("èìøùòïæð¾") and has_carons  # or Slovak, Croatian
    # Portuguese has õ before e alone, French û without the other letters.
    is_hungarian = 2 * len(re.findall("[õû]e", text)) < times("õû") and times("áíóúöü") > 4 * times("äãçêâàèîôñ")
    is_romanian = (has("ã") and has("þ")) or re.search(r"(?<![\w.])º[a-z]", text)
    is_polish = re.search("[a-z][³¹¿][a-z]", text)
    return "cp1250" if is_czech or is_hungarian or is_romanian or is_polish else ""


def _is_baltic(text: str, counts: Counter[str]) -> bool:
    """Tell whether a text that was read in cp1252 is Lithuanian, Latvian, or Estonian with š or ž, in cp1257.

    >>> texts = ("ðalies plotas, þmoniø", "cilvçki mâcâs latvieðu valodâ", "ðokolaad ja võõrsõnad on pärit")
    >>> [_is_baltic(text, Counter(text)) for text in (*texts, "það á að þvo", "instituþii în românia")]
    [True, True, True, False, False]
    """

    def times(letters: str) -> int:
        return sum(counts[letter] for letter in letters)

    carons = times("ðþ")  # š and ž
    if carons and counts["õ"] and counts["ä"]:
        return times("áéíóúýæãšž") == 0
    # Faroese and Danish words seldom end in ø, Romanian ones never in â, and there î begins words.
    lithuanian = len(re.findall(r"[a-z]ø\b|[ëûà]", text))
    latvian = len(re.findall(r"[a-z]â\b|[a-z][îï]", text))
    others = times("éêíóúýöäåüñôõãßùœšžº¹³¿¾")
    if 4 * others > lithuanian + latvian:
        return False
    ends = {end for end in ("ø", "ë", "â", "âs") if re.search(rf"[a-z](?<!hâl){end}\b", text)}  # hâlâ is Turkish
    if {"ø", "ë"} <= ends or (ends & {"â", "âs"} and re.search("[a-z][çîïû]", text)):
        return True
    return carons > 0 and (lithuanian > 0 or latvian >= max(2, carons))
