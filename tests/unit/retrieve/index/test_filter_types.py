"""Numbers compared with text, nulls, and fields that hold both."""

from __future__ import annotations

import pytest

from llama2vec.errors import FilterError
from llama2vec.records import Passage
from llama2vec.retrieve.index.filters import PassageFields

PASSAGES = (
    Passage("0", "t", fields={"temp": "-7", "n": 1, "year": 2020, "draft": True, "done": "true"}),
    Passage("1", "t", fields={"temp": "3", "n": 2, "year": "2020", "draft": False, "empty": None}),
    Passage("2", "t", fields={"temp": "20", "n": -3, "year": "about 1900", "day": "2024-05-01"}),
    Passage("3", "t", fields={"year": 1999.0}),
)


@pytest.fixture(scope="module")
def fields() -> PassageFields:
    return PassageFields(lambda: iter(PASSAGES))


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("year = 2020", [0, 1]),
        ("2020 = (year)", [0, 1]),
        ("year = '2020'", [0, 1]),
        ("year != 2020", [2, 3]),
        ("not year = +2020", [2, 3]),
        ("year in (2020, 'about 1900')", [0, 1, 2]),
        ("year not in ((2020), -1)", [2, 3]),
        ("year is 2020", [0, 1]),
        ("year is not '2020'", [2, 3]),
        ("year = 1999", [3]),
        ("year = 'about 1900' and n < 0", [2]),
        ("n = 1 or year = 2020 and n = 2", [0, 1]),
        ("cast(year as real) < 1950", [2]),
        ("cast(temp as real) > -5 and cast(temp as real) between -10 and +5", [1]),
        ("temp = 3", [1]),
        ("temp in (3, '20')", [1, 2]),
        ("n > -2", [0, 1]),
        ("-n > 0", [2]),
        ("n = '1' or n in ('2')", [0, 1]),
        ("n between '1' and '2'", [0, 1]),
        ("draft is true", [0]),
        ("draft is not true and n is not null", [1, 2]),
        ("temp is null", [3]),
        ("n isnull or n not null and draft notnull", [0, 1, 3]),
        ("length(temp) = 1", [1]),
        ("n = length(temp) or temp = n + 1", [1]),
        ("n = substr(day, 2, 1) - 3", [2]),
        ("case n when 1 then true when 2 then false end", [0]),
        ("iif(n > 0, draft, day ~ '2024')", [0, 2]),
        ("temp > n", [0, 1, 2][1:]),
        ("not not (not n < 0) and not draft", [1]),
        ("date(day) >= '2024'", [2]),
        ("empty = 1 or empty < 'x'", []),
        ("coalesce(n, 0) = 0", [3]),
        ("temp like '2%' escape '!'", [2]),
        ("temp not like '2%' and n not between 2 and 5", [0]),
    ],
)
def test_values_are_compared_as_they_are_meant(fields: PassageFields, where: str, rows: list[int]) -> None:
    assert fields.rows(where).tolist() == rows


REFUSED = {
    "text_order": (
        ["temp > -5", "temp > (5)", "(temp) > +5", "-5 < temp", "temp between -5 and 'a'", "temp between 'a' and (5)",
         "temp not between 1 and 2", "n = 1 or (n = 2 and (temp < - 5))", "not temp >= 5", "temp > n + 1",
         "case when temp > 5 then 1 end", "iif(temp > 5, 1, 0)", "temp > 5 collate nocase", "temp > -(-5)"],
        r"temp holds text; compare numbers with cast\(temp as real\)",
    ),
    "number": (
        ["n = 'x'", "n is 'x'", "n is not 'x'", "n in (1, 'x')", "n in (('x'))", "n between 1 and 'x'",
         "n not between 'x' and 2", "case n when 'x' then 1 end", "('x') = (n)"],
        r"n holds numbers, which \(*'x'\)* is not",
    ),
    "boolean": (
        ["draft = 'true'", "draft is 'true'", "(draft) != 'true'"], "draft holds numbers, .*write draft .*true"
    ),
    "true": (["done = true", "done != false"], r"done holds text; put (true|false) in quotes"),
    "mixed": (
        ["year < 2020", "year > 'a'", "year between 1 and 2", "year = n + 1", "case year when 2020 then 1 end"],
        r"year holds text in some passages and numbers in others; compare numbers with cast\(year as real\), or texts",
    ),
    "null": (["n = null", "null = n", "n > (null)", "n between null and 2", "n ~ null"], "write n is null"),
    "not null": (["n != null", "n <> null", "n !~ null"], "write n is not null"),
    "list": (["n in (1, null)"], "null in a list matches nothing; take it out, and write n is null"),
    "condition": (
        ["temp", "not temp", "(temp) and n = 1", "n = 1 or temp", "temp is true", "temp is not false",
         "case when temp then 1 end", "iif(temp, 1, 0)", "not (n = 1 and (temp))"],
        "temp holds text, so it cannot be a condition by itself; compare it, or write temp is not null",
    ),
    "mixed condition": (["year or n"], "year holds text in some passages and numbers in others, so it cannot be"),
    "literal": (["n = 1 or 'x'"], "'x' is text, so it cannot be a condition"),
    "function": (
        ["lower(temp) = 5", "date(day) >= 2024"], "is text; compare numbers with cast.* or put .* in quotes$"
    ),
    "quoted": (["length(temp) > '2'", "n + 1 = '2'", "+n = '2'"], "gives numbers; write 2 without quotes"),
    "both": (["length(temp) = lower(temp)"], "gives numbers and .* is text; convert one of them with cast"),
    "rows": (["(n, temp) > (1, 2)"], "a list outside of `in"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("where", "problem"), [(where, problem) for wheres, problem in REFUSED.values() for where in wheres]
)
def test_a_comparison_with_the_same_answer_for_all_is_refused(fields: PassageFields, where: str, problem: str) -> None:
    with pytest.raises(FilterError, match=problem) as caught:
        fields.rows(where)
    assert "\n" not in str(caught.value)


MIXED = (
    Passage("0", "t", fields={"draft": True, "status": "open", "mix": "5", "year": 5, "price": 5.0}),
    Passage("1", "t", fields={"draft": "no", "status": "open", "mix": 5, "year": 6, "price": 5.5}),
    Passage("2", "t", fields={"draft": False, "status": 7, "mix": 2020, "year": 2020, "price": 1}),
    Passage("3", "t", fields={"draft": "true", "status": "closed", "mix": "x"}),
    Passage("4", "t", fields={"year": 1}),
)


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("draft = true", [0, 3]),
        ("TRUE == draft", [0, 3]),
        ("draft != true", [1, 2]),
        ("draft = false", [2]),
        ("draft in (true)", [0, 3]),
        ("draft not in (false, 'no')", [0, 3]),
        ("draft is true", [0, 3]),
        ("draft is not true", [1, 2, 4]),
        ("draft = -true", []),
        ("case status when 'open' then year > 5 else status = 7 end", [1, 2]),
        ("mix = year", [0, 2]),
        ("year != mix", [1]),
        ("mix is year", [0, 2]),
        ("case mix when year then 1 end", [0, 2]),
        ("mix in (year)", [0, 2]),
        ("mix in ((year), 5)", [0, 1, 2]),
        ("mix not in (year, 7)", [1]),
        ("mix in (price)", [0]),
        ("year in (mix, 1)", [0, 2, 4]),
    ],
)
def test_a_field_of_both_types_equals_booleans_and_columns(where: str, rows: list[int]) -> None:
    assert PassageFields(lambda: iter(MIXED)).rows(where).tolist() == rows


@pytest.mark.parametrize("where", ["draft < true", "case draft when true then 1 end", "mix < year", "mix = year + 1"])
def test_what_cannot_be_looked_for_as_both_stays_refused(where: str) -> None:
    with pytest.raises(FilterError, match="holds text in some passages and numbers in others; compare numbers with"):
        PassageFields(lambda: iter(MIXED)).rows(where)


@pytest.mark.parametrize("digit", ["\u0663", "\uff15"])
def test_digits_of_other_scripts_are_text(digit: str) -> None:
    both = PassageFields(lambda: iter([Passage("0", "t", fields={"u": digit}), Passage("1", "t", fields={"u": 3})]))
    assert both.rows(f"u = '{digit}' or u in ('{digit}', 'x')").tolist() == [0]
    with pytest.raises(FilterError, match="text needs quotes"):
        both.rows(f"u = {digit}")
    with pytest.raises(FilterError, match=r"page holds numbers, which .* is not"):
        both.rows(f"page = '{digit}'")


@pytest.mark.parametrize(
    "where",
    [
        "n is not not " * 350 + "5",
        "1+not " * 1500 + "n",
        "- " * 2000 + "n",
        "n = 1" + " + 1" * 1500,
        "n in (" * 49 + "1" + ")" * 49 + " and " + "n is not not " * 200 + "5",
    ],
)
def test_what_nests_too_deeply_is_a_mistake(fields: PassageFields, where: str) -> None:
    with pytest.raises(FilterError, match="where: nests expressions too deeply; simplify it"):
        fields.rows(where)


def test_each_limit_of_depth_is_told_by_the_first_that_exceeds_it(fields: PassageFields) -> None:
    nested = "(" * 50 + "n = 1" + ")" * 50
    assert fields.rows(nested).tolist() == [0]
    with pytest.raises(FilterError, match="nests parentheses to a depth of more than 50; simplify it"):
        fields.rows(f"({nested})")


def test_long_filters_that_do_not_nest_are_read(fields: PassageFields) -> None:
    assert fields.rows("n = 1" + " or n = 2" * 500).tolist() == [0, 1]
    assert fields.rows("(" * 40 + "n = 1" + ")" * 40 + " or (n in (2))" * 300).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("version = 1.10", [0]),
        ("1.10 == version", [0]),
        ("version in (1.10, 007)", [0, 1]),
        ("version is 1.1", [2]),
        ("version != 1.10", [1, 2]),
        ("version = 7", []),
        ("version = -7 or version = +1.1", [2]),
    ],
)
def test_a_field_of_text_equals_a_number_as_it_is_written(where: str, rows: list[int]) -> None:
    passages = (Passage(str(row), "t", fields={"version": text}) for row, text in enumerate(("1.10", "007", "1.1")))
    assert PassageFields(lambda: passages).rows(where).tolist() == rows
