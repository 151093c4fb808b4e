"""HTML: the main content without menus, headings, code, tables, lists, and the encoding that the page declares."""

from __future__ import annotations

import pytest
from reading import blocks, only_document, refusal

PAGE = """<!DOCTYPE html><html><head><title>Install — Guide</title><meta name=author content="A. Writer">
<style>p {color: red}</style><script>var x = "script";</script></head><body>
<nav><a href="/">Home</a> <a href="/about">About</a></nav><div class="sphinxsidebar"><ul><li>Menu</li></ul></div>
<main><h1>Install<a class="headerlink" href="#install">¶</a></h1><p>Get the <b>package</b>
 first.</p>
<h2>Linux</h2><ul><li>Download</li><li>Unpack</li></ul><pre>$ make
$ make   install</pre>
<table><tr><th>Option</th><th>Use</th></tr><tr><td>-j</td><td>jobs</td></tr></table>
<dl><dt>prefix</dt><dd>Where it goes.</dd></dl><p hidden>secret</p><!-- a comment --></main>
<footer>Copyright</footer></body></html>"""


def test_a_page_is_its_main_content_with_headings_code_and_tables_as_blocks() -> None:
    document = only_document("a/install.html", PAGE)
    assert (document.title, document.lines, dict(document.fields)) == ("Install", "none", {"author": "A. Writer"})
    assert blocks(document) == [
        ("heading", ("Install",), "Install"),
        ("text", ("Install",), "Get the package first."),
        ("heading", ("Install", "Linux"), "Linux"),
        ("text", ("Install", "Linux"), "- Download\n- Unpack"),
        ("code", ("Install", "Linux"), "$ make\n$ make   install"),
        ("table", ("Install", "Linux"), "Option | Use\n-j | jobs"),
        ("text", ("Install", "Linux"), "prefix\nWhere it goes."),
    ]


def test_a_page_of_menus_alone_is_read_with_them() -> None:
    document = only_document("index.html", "<title>Index</title><body><nav><a>One</a></nav><div class=toc>Two</div>")
    assert (document.title, document.text) == ("Index", "One\n\nTwo")


def test_a_table_of_contents_of_the_page_itself_is_left_out_and_single_links_stay() -> None:
    links = "".join(f'<li>{number}. <a href="#s{number}">Section {number}</a></li>' for number in range(1, 6))
    page = f'<p>Hello.<ul>{links}</ul><h2>One</h2><p><a href="#s2">See two</a></p><p>Text <a href="#s3">three</a>.</p>'
    assert only_document("a.html", page).text == "Hello.\n\nOne\n\nSee two\n\nText three."
    assert only_document("a.html", f"<ul>{links}</ul>").text.count("Section") == 5
    elsewhere = links.replace('"#', '"other.html#')
    assert only_document("a.html", f"<p>Hello.<ul>{elsewhere}</ul>").text.count("Section") == 5


def test_the_contents_of_other_pages_stay_and_those_of_the_page_are_left_out() -> None:
    entries = "".join(f'<dt><a href="part{number}.html#s">Part {number}</a></dt>' for number in range(1, 6))
    page = '<h1>Manual</h1><p>Release 3.</p><div class="toc"><p>Contents</p><dl class="toc">{}</dl></div>'
    assert only_document("a/index.html", page.format(entries)).text.count("Part") == 5
    for own in ("", "index.html", "./index.html"):
        contents = entries
        for number in range(1, 5):
            contents = contents.replace(f"part{number}.html", own)
        assert only_document("a/index.html", page.format(contents)).text == "Manual\n\nRelease 3."


def test_a_table_of_contents_beside_more_text_or_with_the_page_itself_is_a_menu() -> None:
    entries = "".join(f'<a href="part{number}.html">Part {number}</a> ' for number in range(1, 6))
    page = '<div class="toc">{}</div><h1>Oil</h1><p>{}</p>'
    assert only_document("a/part3.html", page.format(entries, "This page tells of oil.")).text.count("Part") == 0
    assert only_document("a/b.html", page.format(entries, "oil " * 120)).text.count("Part") == 0
    assert only_document("a/b.html", page.format(entries, "This book tells of oil.")).text.count("Part") == 5


def test_a_page_without_text_is_skipped() -> None:
    assert refusal("a.html", "<html><script>1</script></html>") == "holds no text outside menus and scripts"


def test_a_layout_table_is_read_as_text_and_breaks_stay() -> None:
    document = only_document("a.htm", "<table><tr><td><h2>Left</h2><p>One<br>two</p></td><td>Right</td></tr></table>")
    assert blocks(document) == [("heading", ("Left",), "Left"), ("text", ("Left",), "One\ntwo\n\nRight")]


def test_entities_and_the_declared_encoding_are_decoded() -> None:
    page = '<meta charset="iso-8859-2"><p>&lt;b&gt; &amp; Łódź</p>'.encode("iso-8859-2")
    assert only_document("a.html", page).text == "<b> & Łódź"


def test_a_page_that_nests_very_deeply_is_read() -> None:
    assert only_document("a.html", "<div>" * 1_900 + "deep").text == "deep"
    assert only_document("a.html", "<p>x<li>y" * 5_000).text.startswith("x\n\n- y")
    assert refusal("a.html", "<div>" * 2_100 + "deep") == "nested too deeply"


def test_a_page_is_known_by_its_first_bytes() -> None:
    assert only_document("README", "\n<!doctype html><p>Hello").text == "Hello"


@pytest.mark.parametrize(
    "section",
    [
        '<section id="cookies"><h2>Cookies</h2><p>Kept.</p></section>',
        '<div class="section" id="cookies"><h2>Cookies</h2><p>Kept.</p></div>',
        '<div class="chapter-level-extent" id="Copyright"><h2>Cookies</h2><p>Kept.</p></div>',
        '<h2 id="related">Cookies</h2><p class="only">Kept.</p>',
    ],
)
def test_a_section_named_like_a_menu_stays(section: str) -> None:
    page = f'<p>Hello.</p><div id="sidebar">Menu</div><span class="sr-only">Skip</span>{section}'
    assert only_document("a.html", page).text == "Hello.\n\nCookies\n\nKept."


def test_a_heading_within_a_link_to_itself_stays_and_its_sign_goes() -> None:
    page = (
        '<h1><a class="permalink" href="/x">Pumps</a></h1><h2>In C#<a class="anchor" href="#c">#</a></h2>'
        '<h2>Seals<a class="headerlink" href="#s">Link to this heading</a></h2><h2>Oil <a href="#o">#</a></h2>'
        '<p><a class="permalink" href="/y">The first post</a></p>'
    )
    assert only_document("a.html", page).text == "Pumps\n\nIn C#\n\nSeals\n\nOil\n\nThe first post"


def test_breaks_and_blocks_divide_words_in_headings_cells_and_code() -> None:
    page = (
        "<h1>Quick<br>start</h1><table><caption>Table 1: Limits</caption><tr><td>first<br>second</td>"
        "<td><div>one</div><div>two</div></td></tr></table><pre>a = 1<br>b = 2<div>c = 3</div><div>d = 4</div></pre>"
    )
    assert blocks(only_document("a.html", page)) == [
        ("heading", ("Quick start",), "Quick start"),
        ("table", ("Quick start",), "Table 1: Limits\nfirst second | one two"),
        ("code", ("Quick start",), "a = 1\nb = 2\nc = 3\nd = 4"),
    ]


def test_a_table_of_rows_and_columns_may_hold_lists_and_paragraphs() -> None:
    page = "<table><tr><td>Seal</td><td><p>Old.</p><p>New.</p></td></tr><tr><td>Oil</td><td><ul><li>a<li>b</ul></table>"
    assert blocks(only_document("a.html", page)) == [("table", (), "Seal | Old. New.\nOil | a b")]
