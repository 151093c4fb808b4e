"""Filters over the fields of passages."""

from __future__ import annotations

import sqlite3
import time
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llama2vec.errors import FilterError, StoreError
from llama2vec.files import file_sha256
from llama2vec.records import Passage, Place
from llama2vec.retrieve.index import filters as filters_module
from llama2vec.retrieve.index.field_table import write_field_table
from llama2vec.retrieve.index.filters import PassageFields, check_filter

PASSAGES = (
    Passage("0", "t", "Guide › Setup", Place("guide/setup.md", 0, 1), {"year": 2019, "price": 9.5, "tag": "en"}),
    Passage("1", "t", "Guide › Übersicht", Place("guide/Übersicht.pdf", 0, 1, page=12), {"year": 2020, "draft": True}),
    Passage("2", "t", "News", Place("news/a (2).md", 0, 1), {"year": 2021, "price": 12, "from": "Ann", "size": "n/a"}),
    Passage("3", "t", "", None, {"year": 2022, "last-modified": "2024-05-01", "size": 30, "price": 100}),
)


@pytest.fixture(scope="module")
def fields() -> PassageFields:
    return PassageFields(lambda: iter(PASSAGES))


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("year >= 2020", [1, 2, 3]),
        ('year>=2020 and path~"guide/"', [1]),
        ("path ~ 'GUIDE'", [0, 1]),
        ("path !~ 'guide'", [2]),
        ("not (path ~ 'guide') or path is null", [2, 3]),
        ("path ~ '(2).md'", [2]),
        ("path ~ 'U\u0308BERSICHT'", [1]),
        ("year ~ 202", [1, 2, 3]),
        ("year in (2019, 2022) and price between 5 and 50", [0]),
        ("title like 'guide%'", [0, 1]),
        ("title glob 'G*'", [0, 1]),
        ("title like '100!%' escape '!'", []),
        ("year = '2020'", [1]),
        ("page = 12", [1]),
        ("id = '3'", [3]),
        ("YEAR == 2021", [2]),
        ("[year] <> 2021 and `year` != 2020", [0, 3]),
        ("draft", [1]),
        ("draft = true", [1]),
        ("not draft", []),
        ("draft is null", [0, 2, 3]),
        ("from = 'ann' collate nocase", [2]),
        ("[last-modified] >= '2024'", [3]),
        ("[last-modified] < date('2025-01-01')", [3]),
        ("lower(tag) = 'EN' or upper(tag) = 'EN'", [0]),
        ("cast(size as real) > 5", [3]),
        ("size = 30 or size = 'n/a'", [2, 3]),
        ("case when year > 2020 then price > 50 else tag = 'en' end", [0, 3]),
        ("-year + 2020 = 0", [1]),
        ("year % 2 = 0 and year * 1.0 / 2 > 1010.5", [3]),
        ('tag = \'it\'\'s\' or tag = "say ""hi"""', []),
        ("((((year))) >= (2022))", [3]),
    ],
)
def test_an_expression_allows_the_passages_it_is_true_of(fields: PassageFields, where: str, rows: list[int]) -> None:
    check_filter(where)
    assert fields.rows(where).tolist() == rows


NAMES = ("K\u00f6ln", "Ko\u0308ln", "STRASSE", "Stra\u00dfe", "\u041c\u041e\u0421\u041a\u0412\u0410", "a_b%c", None)
TOWNS = [
    Passage(
        str(number),
        "t",
        place=Place(f"Gro\u0308\u00dfe/{number}.md", 0, 1),
        fields={"Gr\u00f6\u00dfe": name} if name else {},
    )
    for number, name in enumerate(NAMES)
]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("[Größe] = 'Köln'", [0, 1]),
        ("größe in ('Köln')", [0, 1]),
        ("Größe glob 'Kö*'", [0, 1]),
        ("path = 'Größe/3.md'", [3]),
        ("lower(Größe) = 'köln' or lower(Größe) = 'москва'", [0, 1, 4]),
        ("upper(Größe) = 'KÖLN' or upper(Größe) = 'STRASSE'", [0, 1, 2, 3]),
        ("Größe like 'KÖ%' or Größe like 'моск__'", [0, 1, 4]),
        ("Größe not like '%Ö%'", [2, 3, 4, 5]),
        ("Größe like 'STRAẞE'", [3]),
        ("Größe like 'stra_e' or Größe like 'a!_b!%_' escape '!'", [3, 5]),
        ("Größe like 'a_b%' escape 'b'", []),
        ("Größe like '%a%a%' or Größe like '%ss%s%' or Größe like '%_ss%e'", [2]),
        ("Größe like '%ln%n' or Größe like 'köl%ln' or Größe like '%'", [0, 1, 2, 3, 4, 5]),
        ("Größe like '%ln%n' or Größe like 'köl%ln'", []),
        ("Größe = 'KÖLN' collate nocase or Größe = 'straße' collate nocase", [0, 1, 2, 3]),
        ("Größe < 'kö' collate nocase", [5]),
        ("Größe like iif(Größe = 'x', 'y', null) is null and Größe is null", [6]),
    ],
)
def test_unicode_forms_and_cases_of_every_alphabet_are_the_same(where: str, rows: list[int], form: str) -> None:
    where = unicodedata.normalize(form, where)
    check_filter(where)
    assert PassageFields(lambda: iter(TOWNS)).rows(where).tolist() == rows


def test_a_pattern_of_like_takes_no_longer_the_more_it_leaves_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters_module, "_SECONDS", 5.0)
    long = PassageFields(lambda: iter([Passage("a", "t", fields={"text": "a" * 100_000, "other": "b"})]))
    assert long.rows(f"text like '{'%a' * 400}b'").tolist() == []
    with pytest.raises(FilterError, match="ESCAPE expression must be a single character"):
        long.rows("text like 'a' escape '!!'")


def test_a_document_is_known_in_another_unicode_form_and_as_it_is_written_first() -> None:
    composed, apart = "\u00dcbersicht.csv", "U\u0308bersicht.csv"
    passages = [
        Passage(str(n), "t", place=Place(name, 0, 1)) for n, name in enumerate((f"{apart}#7", "a/o\u0308!\u00fc"))
    ]
    fields = PassageFields(lambda: iter(passages))
    assert [fields.document(path) for path in (apart, composed, "a/\u00f6", "a/o\u0308", "\u00dcbersicht")] == [
        apart, apart, "a/o\u0308", "a/o\u0308", None,
    ]  # fmt: skip
    both = PassageFields(lambda: iter([*passages, Passage("2", "t", place=Place(composed, 0, 1))]))
    assert [both.document(path) for path in (apart, composed)] == [apart, composed]


def test_a_file_left_out_of_the_index_is_unknown_where_one_in_another_form_is_there() -> None:
    """A service gives out what :meth:`document` returns, so that must be what the index holds."""
    fields = PassageFields(lambda: iter([Passage("0", "t", place=Place("u\u0308.md", 0, 1))]))
    assert fields.document("\u00fc.md") == "u\u0308.md"


def test_a_table_of_another_version_is_made_again_in_memory(tmp_path: Path) -> None:
    write_field_table(TOWNS, tmp_path / "fields.sqlite").close()
    with closing(sqlite3.connect(tmp_path / "fields.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 0")
    sha256 = file_sha256(tmp_path / "fields.sqlite")
    fields = PassageFields(lambda: iter(TOWNS[:1]), tmp_path / "fields.sqlite", sha256, "again")
    assert fields.rows("Größe = 'Köln'").tolist() == [0]


@pytest.mark.parametrize("where", ["", "year >= 10k", "(year > 1", "year = 1)", "1 < year < 2", "year = load('x')"])
def test_what_no_index_can_read_is_refused_without_one(where: str) -> None:
    with pytest.raises(FilterError, match=r"^where: "):
        check_filter(where)


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        (
            "yaer > 2020",
            r"unknown field 'yaer'; did you mean year\? the fields are id, title, path, page, year, price,",
        ),
        ("last-modified > '2024'", r"unknown field 'last'; did you mean \[last-modified\]\?"),
        ("tag = en", r"unknown field 'en'; .*; text needs quotes: 'en'$"),
        ("path ~ guide/", "unknown field 'guide'"),
        ("year >", "incomplete"),
        ("price > 12,5", r"a comma stands at character 11; write numbers with a point, such as 12\.5"),
        ("price between 1,5 and 2", "a comma stands at character 16"),
        ("12,5", "a comma stands at character 3"),
        ("(price > 12,5)", r"write 12\.5, not 12,5"),
        ("year 2020", "cannot be read as one expression .*; join comparisons with `and` or `or`"),
        ("year > * 2020", r'near "\*": syntax error'),
        ("(year > 2020", "the parenthesis at character 1 is not closed"),
        ("year > 2020) or (year < 2000", "the parenthesis at character 12 closes nothing"),
        ("year > 2020; drop table passages", r"cannot read '; drop table' \(character 12\); give a single expression"),
        ("year > 2020 -- 2", "holds a comment at character 13"),
        ("year > /* 1 */ 2020", "holds a comment at character 8"),
        ("tag = 'en", "the text is not closed"),
        ("year > 2020 && draft", "write `and`"),
        ("year > 2020 || draft", "write `or`"),
        ("!draft", "write `not`"),
        ("year = 2020 union select 1", "unknown field 'union'"),
        ("year in (select 1)", "unknown field 'select'"),
        ("year > 10k", "cannot read '10k'"),
        ("", "is empty"),
        ("  ", "is empty"),
        ("1 = 1", "names no field"),
        ('"year" >= 2020', "\"year\" can mean the field year or the text 'year'; write one of these"),
        ("2000 < year < 2021", "'<' and '<' compare one after the other; join two comparisons with `and`"),
        ("[last-modified] > 2024-05-01", "a date needs quotes: '2024-05-01'"),
        ("year > 'abc'", "year holds numbers, which 'abc' is not"),
        ("draft = 'true'", "draft holds numbers, which 'true' is not; write draft = true"),
        ("tag > 5", r"tag holds text; compare numbers with cast\(tag as real\), or put 5 in quotes"),
        ("5 < size", "size holds text in some passages and numbers in others"),
        ("size between 1 and 2", "size holds text in some passages"),
        ("load_extension('x') = 1 and year", "unknown function 'load_extension'"),
        ("randomblob(1000000000) = year", "unknown function 'randomblob'"),
        ("max(year) = 1", "misuse of aggregate"),
        ("year = 1" + " or year = 1" * 1000, "more than 10,000"),
        ("(" * 2000 + "year" + ")" * 2000, "stack overflow|depth"),
        ("cast(year as blob) = 1", "unknown field 'blob'"),
        ("year in (1, 2", "not closed"),
        ("year = ?", "cannot read '?'"),
        ("year regexp '^2'", "unknown field 'regexp'"),
        ("title like '" + "%a" * 600 + "'", "LIKE or GLOB pattern too complex"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(fields: PassageFields, where: str, problem: str) -> None:
    with pytest.raises(FilterError, match=problem) as caught:
        fields.rows(where)
    assert str(caught.value).startswith("where: ")
    assert "\n" not in str(caught.value)


def test_half_a_surrogate_pair_is_a_mistake(fields: PassageFields) -> None:
    for reads in (check_filter, fields.rows):
        with pytest.raises(FilterError, match=r"where: .*\\ud800.* holds half of a surrogate pair; remove it"):
            reads("title = '\ud800'")


def test_names_are_the_columns_in_order(fields: PassageFields) -> None:
    expected = ["id", "title", "path", "page", "year", "price", "tag", "draft", "from", "size", "last-modified"]
    assert fields.names == expected
    assert fields.document("guide/setup.md") == "guide/setup.md"
    assert fields.document("guide") is None


def test_an_expression_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    many = PassageFields(lambda: (Passage(str(n), "", fields={"year": n}) for n in range(20_000)))
    assert len(many.rows("year >= 0")) == 20_000
    monkeypatch.setattr(filters_module, "_SECONDS", 0.0)
    with pytest.raises(FilterError, match="took longer than 0 s; simplify it"):
        many.rows("year >= 1")
    monkeypatch.undo()
    assert len(many.rows("year >= 1")) == 19_999


def test_calls_of_replace_within_each_other_are_stopped_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    one = PassageFields(lambda: (Passage("m", "") for _ in range(1)))
    grown = "id"
    for _ in range(7):
        grown = f"replace({grown}, 'm', '{'m' * 10}')"
    with pytest.raises(FilterError, match="a text longer than 1,048,576 bytes; simplify it"):
        one.rows(f"length({grown}) > 5")
    grown = "id"
    for _ in range(5):
        grown = f"replace({grown}, 'm', '{'m' * 10}')"
    for _ in range(8):
        grown = f"replace(replace({grown}, 'm', 'n'), 'n', 'm')"
    monkeypatch.setattr(filters_module, "_SECONDS", 0.01)
    begun = time.monotonic()
    with pytest.raises(FilterError, match="took longer than"):
        one.rows(" + ".join([f"length({grown})"] * 20) + " > 5")
    assert time.monotonic() - begun < 3
    assert one.rows("replace(id, 'm', 'n') = 'n'").tolist() == [0]


def test_only_calls_of_replace_limit_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters_module, "_LONGEST_REPLACED", 1000)
    named = PassageFields(lambda: iter([Passage("m", "", fields={"replace": 5, "long": "m" * 2000})]))
    plain = PassageFields(lambda: iter([Passage("m", "", fields={"long": "m" * 2000})]))
    for where in ("length(long) > 5 and long !~ 'replace('", "length(long) > 5 and replace in (5) and replace > 1"):
        assert named.rows(where).tolist() == [0]
    for where in ("REPLACE (long, 'm', 'n') > 'a'", "length(long) > 5 and replace(id, 'm', 'n') = 'n'"):
        for fields in (plain, named):  # SQLite calls the function even where a field has its name
            with pytest.raises(FilterError, match="a text longer than 1,000 bytes"):
                fields.rows(where)


def test_the_connection_refuses_everything_but_reading_the_fields(fields: PassageFields) -> None:
    connection = fields._open()
    for statement in (
        "DELETE FROM passages", "CREATE TABLE x (y)", "ATTACH ':memory:' AS other", "PRAGMA user_version = 3",
        "SELECT name FROM sqlite_master", "SELECT hex(id) FROM passages", "SELECT load_extension('x')",
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n",
    ):  # fmt: skip
        with pytest.raises(sqlite3.DatabaseError, match=r"not authorized|prohibited"):
            connection.execute(statement)
    assert len(fields.rows("id is not null")) == 4


def test_the_passages_are_read_once_and_only_for_a_filter() -> None:
    read = []

    def passages() -> Iterator[Passage]:
        read.append(1)
        yield from PASSAGES

    fields = PassageFields(passages)
    assert read == []
    fields.rows("year = 2020")
    assert fields.rows("year = 2021").tolist() == [2]
    assert read == [1]


def test_more_filters_than_are_remembered_stay_right(fields: PassageFields) -> None:
    for _ in range(2):
        for year in range(2010, 2030):
            assert len(fields.rows(f"year = {year}")) == (2019 <= year <= 2022)


def test_a_table_on_disk_is_read_only_while_it_is_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "a ? folder #1" / "fields.sqlite"
    file.parent.mkdir()
    write_field_table(PASSAGES, file).close()

    def never() -> Iterator[Passage]:
        raise AssertionError("read")

    sha256 = file_sha256(file)
    assert PassageFields(never, file, sha256).rows("year = 2020").tolist() == [1]
    assert [path.name for path in file.parent.iterdir()] == ["fields.sqlite"]
    content = bytearray(file.read_bytes())
    content[-10] ^= 1
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"fields.sqlite is missing, damaged, .*; build the index again"):
        PassageFields(never, file, sha256, "build the index again").rows("year = 2020")
    file.write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match="cannot be read"):
        PassageFields(never, file, file_sha256(file), "build the index again").names  # noqa: B018
