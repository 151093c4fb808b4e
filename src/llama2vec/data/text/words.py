"""Words: which of them carry content, and when two texts consist of the same ones."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from llama2vec.errors import ConfigError, MissingDependencyError
from llama2vec.files import file_sha256, read_text

logger = logging.getLogger(__name__)

_KANA_AND_HAN = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
SIGNS = rf"{_KANA_AND_HAN}\uac00-\ud7af"
"""Chinese, Japanese and Korean characters, for use inside the brackets of a regular expression."""

_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese and Khmer: about five letters a word
_SIGN = re.compile(f"[{_KANA_AND_HAN}]")
_PAIRED = re.compile(f"[{SIGNS}{_UNSPACED}]")

_JOINERS = r"\u200c\u200d"
_PLAIN_WORD = re.compile(r"\w+")
_MAY_NEED_CARE = re.compile(
    rf"[\u0300-\u036f\u0483-\u0489\u0591-\u1dff{_JOINERS}\u20d0-\u20ff\u2ce0-\ufe2f\U00010000-\U000fffff]"
)
"""Marks, joiners, and letters of scripts without spaces: a text without them consists of plain words."""

_LEFT_OUT = re.compile(
    "[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"  # Hebrew points and accents; Arabic vowel signs, tatweel
    "\u0610-\u061a\u0640\u064b-\u0652\u0656-\u065e\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed"
    f"\u08ca-\u08e1\u08e3-\u08ff{_JOINERS}\u20dd-\u20e0\u20e2-\u20e4\ufe00-\ufe0f\U000e0100-\U000e01ef]"
    "|(?<=i)\u0307"  # What lower case makes of the Turkish İ
)
_ACCENT = re.compile("[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]")

_LONGEST = 32
"""More characters in a row, such as those of minified code, count as several words, so that they can be cut."""
_FURTHER = 8
"""How many characters beyond count as one more word."""


def _counted() -> re.Pattern[str]:
    """Return the pattern of what :func:`word_spans` counts."""
    other = rf"[^\s{_KANA_AND_HAN}{_UNSPACED}]"
    # Each word looks back, never ahead: the beginning of a text counts the same without what follows.
    runs = rf"(?<={other}{{{_LONGEST}}}){other}{{1,{_FURTHER}}}|{other}{{1,{_LONGEST}}}"
    return re.compile(rf"(?:[{_KANA_AND_HAN}]|[{_UNSPACED}]{{1,5}})[^\w\s]{{0,{_LONGEST}}}|{runs}")


_COUNTED = _counted()
"""Korean is written with spaces, so its signs do not count."""


@cache
def _marks() -> str:
    r"""Return the combining marks for use inside brackets: ``\w`` lacks them, yet they stand inside of words."""
    ranges: list[list[int]] = []
    for code in (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0)):
        if unicodedata.category(chr(code)).startswith("M"):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


def _with_marks(letter: str) -> str:
    """Return the pattern of a run of letters, with the marks on them and the joiners between them."""
    inner = rf"(?:[{_marks()}]|[{_JOINERS}]+(?=[\w{_marks()}]))"
    return f"{letter}+(?:{inner}{letter}*)*"


@cache
def word_pattern() -> re.Pattern[str]:
    """Return the pattern of a run of letters and digits with their marks.

    >>> word_pattern().findall("snake_case, क़िताब की")
    ['snake', 'case', 'क़िताब', 'की']
    """
    return re.compile(_with_marks(r"[^\W_]"))


@cache
def _careful() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of words and runs without spaces (group 1), and of a letter with its marks in such a run."""
    marks = _marks()
    # The marks of a letter come after it, and some of them are within the ranges of the letters.
    paired = rf"(?:(?:[{SIGNS}]|(?![^{_UNSPACED}])\w)(?:[{marks}]|[{_JOINERS}]+(?=[\w{marks}]))*)+"
    other = rf"[^\W{SIGNS}{_UNSPACED}]"
    return re.compile(f"({paired})|{_with_marks(other)}"), re.compile(rf".[{marks}{_JOINERS}]*")


def stop_words(language: str) -> frozenset[str]:
    """Return the stop words of an ISO 639-1 code from the maintained list stopwords-iso; empty if it has none.

    They are split as :func:`word_pattern` splits the texts that they are compared with.
    """
    try:
        import stopwordsiso
    except ImportError as error:
        raise MissingDependencyError("stop words need stopwordsiso; pip install 'llama2vec[train]'") from error
    if not stopwordsiso.has_lang(language):
        logger.warning("no stop-word list for language '%s': all words count", language)
        return frozenset()
    # The list holds contractions ("don't"); texts are compared word by word, as the authors' code does.
    return _parts(stopwordsiso.stopwords(language), language)


def _parts(words: Iterable[str], language: str) -> frozenset[str]:
    pattern = word_pattern()
    return frozenset(part for word in words for part in pattern.findall(lower_case(word, language)))


_NLTK = Path(__file__).with_name("stop_words_nltk.txt")
STOP_WORD_LISTS = ("iso", "nltk", "none")
"""What may be named instead of a file of stop words."""


def chosen_stop_words(choice: str, language: str, *, key: str = "text.stop_words") -> frozenset[str] | None:
    """Return the stop words that a recipe chooses, as lower-case single words; None = every token counts.

    Args:
        choice: ``iso`` = stopwords-iso of the language, ``nltk`` = the English list of NLTK, ``none``, or a file with a
            word a line, in which ``#`` begins a comment.
        language: ISO 639-1 code, for ``iso`` and for lower case.
        key: The setting that an error names.

    Raises:
        ConfigError: The file cannot be read, or holds no word.
    """
    if choice == "none":
        return None
    if language in WITHOUT_SPACES:
        _tell_of_phrases(language)
    if choice == "iso":
        return stop_words(language)
    path = _NLTK if choice == "nltk" else Path(choice)
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError):
        lists = ", ".join(STOP_WORD_LISTS)
        raise ConfigError(
            f"{key}: {choice} is neither one of {lists} nor a file of UTF-8 text with one word a line"
        ) from None
    words = _parts((line.partition("#")[0] for line in lines), language)
    if not words:
        raise ConfigError(f"{key}: {choice} holds no word; write one a line, or choose none")
    return words


WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "km"})
"""Languages whose sentences are runs of letters without spaces: Chinese, Japanese, Thai, Lao, Burmese, Khmer."""


@cache  # Once, although each stage chooses them more than once
def _tell_of_phrases(language: str) -> None:
    logger.warning(
        "stop words have hardly any effect in language '%s': it is written without spaces, so a whole phrase counts as "
        "one word",
        language,
    )


def stop_words_identity(choice: str) -> str:
    """Return what identifies a choice of stop words: the name of a list, the hash of a file."""
    is_file = choice not in STOP_WORD_LISTS and Path(choice).is_file()
    return f"sha256:{file_sha256(Path(choice))}" if is_file else choice


def text_key(text: str) -> str:
    """Return what two texts share that differ only in case, white space, or Unicode form (composed, full-width).

    This is Unicode's NFKC case folding, with runs of white space as single spaces.

    >>> text_key(" The  Caf\\u0065\\u0301\\n") == text_key("the ｃafé")
    True
    """
    # The second NFKC: folding may take composed letters apart.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def has_dotless_i(language: str) -> bool:
    """Tell whether a language pairs I with ı, and İ with i, as Turkish and Azeri do."""
    return language in ("az", "tr")


def lower_case(text: str, language: str) -> str:
    """Return a text in lower case as its language has it.

    >>> lower_case("IŞIK İSTANBUL", "tr")
    'ışık istanbul'
    """
    if has_dotless_i(language):
        text = text.replace("I\u0307", "i").replace("İ", "i").replace("I", "ı")
    return text.lower()


def bare(text: str) -> str:
    """Return a text without the marks that writers may leave out: vowels of Arabic and Hebrew, tatweel, joiners.

    >>> bare("الكِتَابُ") == "الكتاب"
    True
    """
    return text if text.isascii() else _LEFT_OUT.sub("", text)


def one_spelling(word: str) -> str:
    """Return a word composed and without the marks that writers may leave out; its letters and their case stay.

    >>> one_spelling("fu\\u0308r") == "für"
    True
    """
    # What lower case leaves of a Turkish İ stays: whether it is an i, the language says.
    return "i\u0307".join(map(bare, unicodedata.normalize("NFC", word).split("i\u0307")))


def word_key(word: str) -> str:
    """Return what two words share that differ only as in :func:`text_key` or in marks that may be left out.

    The language is not known here, so ı, which is I in Turkish capitals, is the same as i.

    >>> word_key("İstanbul"), word_key("IŞIK") == word_key("ışık")
    ('istanbul', True)
    """
    return bare(text_key(word)).replace("ı", "i")


def is_paired(letter: str) -> bool:
    """Tell whether a letter is Chinese, Japanese, Korean, Thai, Lao, Burmese or Khmer: BM25 takes them in pairs."""
    return _PAIRED.match(letter) is not None


def letters_of(word: str) -> int:
    """Return how many letters and vowel signs a word has; accents, which any script may have, do not count."""
    return len(word if word.isalnum() else _ACCENT.sub("", word))


def word_runs(text: str) -> Iterator[list[tuple[int, int]]]:
    """Yield (begin, end) of each word; of a run of paired letters, those of each letter with its marks, in one list.

    >>> [[text[a:b] for a, b in run] for text in ["a की 羊驼", "งู"] for run in word_runs(text)]
    [['a'], ['की'], ['羊', '驼'], ['งู']]
    """
    if is_plain(text):
        yield from ([found.span()] for found in _PLAIN_WORD.finditer(text))
        return
    runs, letters = _careful()
    for run in runs.finditer(text):
        begin, end = run.span()
        if not run[1]:
            yield [(begin, end)]
        elif run[1].isalnum():
            yield [(place, place + 1) for place in range(begin, end)]
        else:
            yield [letter.span() for letter in letters.finditer(text, begin, end)]


def is_plain(text: str) -> bool:
    r"""Tell whether a text has neither marks nor paired letters, so that its words are what ``\w+`` matches."""
    return _MAY_NEED_CARE.search(text) is None


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return (begin, end) of what counts as a word where texts are measured, punctuation included.

    That is what stands between white space; of more than 32 characters in a row, every further eight count as one more
    word. Of scripts that are written without spaces, each kana or Han sign counts, and every five letters of Thai, Lao,
    Burmese or Khmer.

    >>> word_spans("a llama 你好。")
    [(0, 1), (2, 7), (8, 9), (9, 11)]
    """
    return [found.span() for found in _COUNTED.finditer(text)]


def count_words(text: str) -> int:
    """Return the number of :func:`word_spans`."""
    if text.isascii():
        words = text.split()
        if all(len(word) <= _LONGEST for word in words):
            return len(words)
    return len(_COUNTED.findall(text))


def estimated_words(text: str) -> int:
    """Return about how many words a short text has; two kana or Han signs count as one, which is their usual length.

    >>> estimated_words("who won the race?"), estimated_words("谁赢得了比赛？")
    (4, 3)
    """
    return count_words(text) - len(_SIGN.findall(text)) // 2


def first_words(text: str, count: int) -> str:
    """Return the first words of a text as :func:`word_spans` counts them, with single spaces."""
    spans = word_spans(text)[:count]
    return " ".join(text[: spans[-1][1]].split()) if spans else ""


def sentence_spans(text: str, language: str = "en") -> list[tuple[int, int]]:
    """Return (begin, end) of each sentence, the white space after it included; a blank line ends a sentence.

    >>> sentence_spans("Dr. Crane hums. It flies.")
    [(0, 16), (16, 25)]
    """
    try:
        import sentencex
    except ImportError as error:
        needed = "splitting sentences needs sentencex; pip install 'llama2vec[documents]'"
        raise MissingDependencyError(needed) from error
    return [(found["start_index"], found["end_index"]) for found in sentencex.get_sentence_boundaries(language, text)]
