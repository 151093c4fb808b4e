from llama2vec.data.documents.document import Block, Document
from llama2vec.data.documents.places import Places, stripped
from llama2vec.records import Place

TEXT = "one\ntwo\n\nthree\nfour\n"
PAGES = (Block(0, 9, page=3), Block(9, 15, page=4), Block(15, 20, page=4))


def test_lines_of_a_file_count_from_its_first_line() -> None:
    assert Places(Document("a", TEXT)).of(4, 14) == Place("a", 4, 14, 2, 4)
    assert Places(Document("a#7", TEXT, first_line=10)).of(4, 7) == Place("a#7", 4, 7, 11, 11)


def test_lines_of_pages_count_from_the_page() -> None:
    places = Places(Document("a", TEXT, blocks=PAGES, lines="page"))
    assert places.of(4, 7) == Place("a", 4, 7, 2, 2, 3)
    assert places.of(9, 19) == Place("a", 9, 19, 1, 2, 4)
    assert list(places.page_begins) == [0, 9]


def test_a_text_taken_out_of_markup_has_no_lines() -> None:
    assert Places(Document("a", TEXT, lines="none")).of(4, 7) == Place("a", 4, 7)


def test_all_of_a_row_stands_on_its_line() -> None:
    assert Places(Document("a.csv#7", TEXT, lines="row", first_line=8)).of(4, 14) == Place("a.csv#7", 4, 14, 8, 8)


def test_white_space_at_the_ends_belongs_to_no_span() -> None:
    assert stripped(" \n one ", 0, 7) == (3, 6)
    assert stripped("   ", 1, 3) == (1, 1)
