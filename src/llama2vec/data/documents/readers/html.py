"""HTML: the main content without menus; headings, code and tables as blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers.building import TextBuilder
from llama2vec.data.documents.readers.encodings import decoded
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import UnreadableError
from llama2vec.records import Value

_DECLARED = re.compile(
    rb"""<meta[^>]{0,200}?charset\s*=\s*["']?([\w-]+)|<\?xml[^>]{0,100}encoding=["']([\w-]+)""", re.I
)
_NO_TEXT_WORDS = (
    "script style noscript template svg math iframe object embed head button select textarea input dialog audio video "
    "canvas nav aside footer"
)
_NO_TEXT = frozenset(_NO_TEXT_WORDS.split())
_MENUS_WORDS = (
    "sphinxsidebar sidebar navbar nav navigation menu mainmenu topnav sidenav related breadcrumb breadcrumbs "
    "headerlink copiable-link copiable-anchor anchorjs-link heading-anchor permalink footer page-footer "
    "site-footer navheader navfooter skip-link skiplink skip-nav cookie-banner cookies copyright prev-next-area "
    "edit-page printfooter mw-editsection noprint node-header md-sidebar bd-sidebar-primary bd-sidebar-secondary "
    "wy-nav-side rst-versions nav-panel nav-list inner-footer sr-only visually-hidden"
)
_MENUS = frozenset(_MENUS_WORDS.split())
_TABLES_OF_CONTENTS = frozenset(("toc", "table-of-contents", "tableofcontents", "contents-menu"))
"""Left out where most of their links stay on the page; the title page of a manual holds those of its other pages."""
_NAMED_BY_ID = frozenset(("div", "ul", "nav", "aside"))
"""Elements that can be a menu by their id; that of others, such as a heading, is made of its words."""
_SECTION = re.compile(r"(?:sub)*section|chapter|level\d|sect\d|\S+-level-extent")
"""A class of what Docutils, Pandoc, DocBook and Texinfo write for a section, whose id is made of its title."""
_ANCHORS = frozenset(("headerlink", "permalink", "anchor", "heading-anchor", "anchorjs-link", "copiable-link"))
"""Classes of links from a heading to itself."""
_ROLES_WORDS = "navigation banner contentinfo search complementary menu menubar doc-toc dialog alertdialog"
_ROLES = frozenset(_ROLES_WORDS.split())
_BLOCKS_WORDS = (
    "address article blockquote body center dd details div dl dt fieldset figcaption figure form header hgroup hr html "
    "li main ol p section summary table tbody td tfoot th thead tr ul caption legend"
)
_BLOCKS = frozenset(_BLOCKS_WORDS.split())
_LAYOUT = ", ".join(f"td {inner}" for inner in ("table", "h1", "h2", "h3", "h4", "pre", "p + p + p + p"))
"""What the cells of a table hold that only arranges a page."""
_LOOSE = "td ul, td ol, td p + p"
"""What they may also hold in a table of rows and columns."""
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)(?![^<>]*/>)")
_ALONE_NAMES = (
    "p li td th tr dd dt option optgroup tbody thead tfoot colgroup col caption br img hr input meta link area base "
    "source track wbr param embed html body head a rp rt"
)
_ALONE = frozenset(_ALONE_NAMES.split())
"""Elements that the next one of their kind ends, or that hold nothing."""
_MOST_DEPTH = 2000
_LETTER = re.compile(r"[^\W\d_]")
_LETTER_OR_DIGIT = re.compile(r"\w")
_CONTENTS = 4
"""So many paragraphs in a row that only link to the same page are its table of contents, which is left out."""
_LEAST_MAIN = 200
"""A main element with fewer characters than this, and than a fifth of the page, is not the page's content."""
_TITLE_PAGE_WORDS = 100
"""A page with more words beside a table of contents of other pages is one of them, and the contents are its menu."""


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document]:
    """Yield the page as one document whose title is its first heading of level 1, else its ``<title>``."""
    declared = _DECLARED.search(data[:4096])
    encoding = (declared[1] or declared[2]).decode("ascii") if declared else None
    yield page_document(decoded(data, settings.encoding, encoding), name)


def page_document(source: str, name: str) -> Document:
    """Return the content of an HTML page as a document.

    Raises:
        UnreadableError: The page holds no text.
    """
    tree = _tree(source)
    builder = TextBuilder()
    _add_page(builder, tree, PurePosixPath(name.rpartition("!")[2]).name)
    named = tree.css_first("head > title") or tree.css_first("title")
    title = (named.text() if named else "").strip()
    first = next((block.headings[0] for block in builder.document("").blocks if block.kind == "heading"), "")
    main = tree.css("h1")
    if first and (len(main) == 1 or not title):
        title = first
    document = builder.document(name, title=title or first, fields=_fields(tree))
    if not document.text.strip():
        raise UnreadableError("holds no text outside menus and scripts")
    return document


def add_html(builder: TextBuilder, source: str, *, menus: bool = False) -> None:
    """Add the content of HTML that another format holds; ``menus`` keeps what a web page repeats, such as footers."""
    tree = _tree(source)
    if not menus:
        _add_page(builder, tree)
    elif tree.body is not None:
        _Walk(builder, menus=True).walk(tree.body)


def _target(link: Any) -> tuple[str, str]:
    """Return the page that a link leads to, "" = its own, and the mark before a place on it."""
    page, mark, _ = (link.attributes.get("href") or "").partition("#")
    return unquote(page.removeprefix("./") or page), mark


def _word_count(node: Any) -> int:
    return len(node.text(separator=" ").split())


def _tree(source: str) -> Any:
    from selectolax.lexbor import LexborHTMLParser

    depth = deepest = 0
    for tag in _TAG.finditer(source):
        if tag[2].lower() not in _ALONE:
            depth = max(0, depth - 1) if tag[1] else depth + 1
            deepest = max(deepest, depth)
    # The time of the HTML algorithm grows with the square of the depth.
    if deepest > _MOST_DEPTH:
        raise UnreadableError("nested too deeply")
    return LexborHTMLParser(source.replace("\0", ""))


def _fields(tree: Any) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name in ("author", "date", "keywords"):
        node = tree.css_first(f'meta[name="{name}"]')
        content = node.attributes.get("content") if node else None
        if content and content.strip():
            found[name] = content.strip()
    return found


def _add_page(builder: TextBuilder, tree: Any, page: str = "") -> None:
    """Add a parsed page to a text, without its menus unless nothing else is on it; ``page`` = its file's name."""
    if tree.body is None:
        return
    before = builder.length
    _Walk(builder, menus=False, page=page).walk(_main(tree))
    if builder.length == before:
        _Walk(builder, menus=True).walk(tree.body)


def _main(tree: Any) -> Any:
    """Return the element that holds the content."""
    size = len(tree.body.text())
    for selector in ("main", '[role="main"]', "article", "div.body", "div.document"):
        found = tree.css(selector)
        if len(found) == 1 and len(found[0].text()) > min(_LEAST_MAIN, size / 5):
            return found[0]
    return tree.body


class _Walk:
    """One pass over the elements in order; a stack of its own, since pages nest deeper than Python may call."""

    def __init__(self, builder: TextBuilder, *, menus: bool, page: str = "") -> None:
        self._builder, self._menus, self._page = builder, menus, page
        self._kept: set[int] = set()  # Elements within tables of contents of other pages
        self._page_words = 0  # Counted for the first of these tables
        self._line: list[str] = []  # The paragraph so far
        self._tight = False
        self._links = 0  # Open links to places on the same page
        self._words_outside = False  # The paragraph has words that stand in none of them
        self._contents: list[tuple[str, bool]] = []  # Paragraphs of such links alone

    def walk(self, root: Any) -> None:
        stack: list[tuple[Any, bool]] = [(root, False)]
        while stack:
            node, leaving = stack.pop()
            tag = node.tag
            if leaving and tag == "a":
                self._links -= 1
            elif leaving:
                self._flush()
                # List items, and a term with its definition, follow each other without a blank line.
                self._tight = tag in ("li", "dt")
            elif node.is_text_node:
                self._line.append(node.text_content or "")
                self._words_outside |= not self._links and _LETTER.search(self._line[-1]) is not None
            elif tag == "br":
                self._line.append("\v")
            elif node.is_element_node and not self._is_skipped(node, tag) and not self._whole(node, tag):
                if tag in _BLOCKS:
                    self._flush()
                    self._tight = self._tight and tag in ("li", "dd", "p", "div")
                    stack.append((node, True))
                    if tag == "li":
                        self._line.append("- ")
                elif tag == "a" and self._stays(node):
                    stack.append((node, True))
                    self._links += 1
                stack += [(child, False) for child in reversed(_children(node))]
        self._flush()
        self._settle()

    def _is_skipped(self, node: Any, tag: str) -> bool:
        if tag in _NO_TEXT:
            return not (self._menus and tag in ("nav", "aside", "footer"))
        attributes = node.attributes
        if "hidden" in attributes or attributes.get("aria-hidden") == "true":
            return True
        if self._menus or not attributes:
            return False
        names = (attributes.get("class") or "").lower().split()
        if tag in _NAMED_BY_ID and not any(map(_SECTION.fullmatch, names)):
            names += (attributes.get("id") or "").lower().split()
        if tag == "a" and _is_anchor(node):
            return _LETTER.search(node.text()) is None
        if not _TABLES_OF_CONTENTS.isdisjoint(names) and tag not in ("body", "main", "article"):
            return self._is_of_the_page(node)
        if not _MENUS.isdisjoint(names) or (attributes.get("role") or "").lower() in _ROLES:
            return tag not in ("body", "main", "article")
        # Within an article a header may hold the title.
        return (tag == "header" or "header" in names) and node.css_first("h1, h2, h3, h4") is None

    def _stays(self, link: Any) -> bool:
        """Tell whether a link leads to a place on the same page."""
        page, mark = _target(link)
        return page == self._page if page else bool(mark)

    def _is_of_the_page(self, contents: Any) -> bool:
        """Tell whether a table of contents is that of the page itself."""
        if contents.mem_id in self._kept:
            return False
        links = contents.css("a[href]")
        is_sidebar = any(_target(link) == (self._page, "") for link in links)
        if is_sidebar or 2 * sum(map(self._stays, links)) >= len(links) or self._says_more_than(contents):
            return True
        # Each once, or many within each other would take long.
        self._kept.update(one.mem_id for one in contents.css("*"))
        return False

    def _says_more_than(self, contents: Any) -> bool:
        """Tell whether a page is one of those that a table of contents lists, not a title page."""
        if not self._page_words:
            root = contents
            while root.parent is not None and root.parent.tag not in ("html", "-undef", "-document"):
                root = root.parent
            self._page_words = _word_count(root)
        return self._page_words - _word_count(contents) > _TITLE_PAGE_WORDS

    def _whole(self, node: Any, tag: str) -> bool:
        """Add a heading, code or a table as a block of its own."""
        if len(tag) == 2 and tag[0] == "h" and tag[1] in "123456":
            self._flush()
            self._settle()
            self._builder.heading(int(tag[1]), _heading(node))
        elif tag == "pre":
            self._flush()
            self._settle()
            self._builder.add(_inner_text(node).replace("\r", ""), "code")
        elif tag == "table" and node.css_first("td, th") and not _is_layout(node):
            self._flush()
            self._settle()
            self._table(node)
        else:
            return False
        self._tight = False
        return True

    def _table(self, node: Any) -> None:
        rows = [[_words(cell) for cell in row.css("th, td")] for row in node.css("tr")]
        lines = [_words(caption) for caption in node.css("caption")]
        lines += [" | ".join(cells) for cells in rows if any(cells)]
        kind: Any = "table" if any(len(cells) > 1 for cells in rows) else "text"
        self._builder.add("\n".join(lines), kind)

    def _flush(self) -> None:
        """End the paragraph."""
        lines = (" ".join(line.split()) for line in "".join(self._line).split("\v"))
        text = "\n".join(lines).strip()
        only_links = not self._words_outside and not self._menus
        self._line, self._words_outside = [], False
        if text and text != "-":
            if not only_links:
                self._settle()
            self._contents.append((text, self._tight))
            if not only_links:
                self._settle(keep=True)
            self._tight = False

    def _settle(self, *, keep: bool = False) -> None:
        """Add the paragraphs that wait; a run of links to the page's own sections is its table of contents."""
        if keep or len(self._contents) < _CONTENTS:
            for text, tight in self._contents:
                self._builder.add(text, tight=tight)
        self._contents = []


def _is_layout(table: Any) -> bool:
    """Tell whether a table only arranges a page: by what its cells hold, where it is not one of rows and columns."""
    if table.css_first(_LAYOUT) is not None:
        return True
    if table.css_first(_LOOSE) is None or table.css_first("th") is not None:
        return False
    return sum(len(row.css("td")) > 1 for row in table.css("tr")) < 2


def _is_anchor(link: Any) -> bool:
    return not _ANCHORS.isdisjoint((link.attributes.get("class") or "").lower().split())


def _heading(node: Any) -> str:
    """Return the words of a heading, without the links to itself unless its words stand in one."""
    short = _words(node, anchors=False)
    return (short if _LETTER.search(short) else _words(node)).strip("¶ ").lstrip("# ")


def _words(node: Any, *, anchors: bool = True) -> str:
    return " ".join(_inner_text(node, anchors=anchors).split())


def _inner_text(node: Any, *, anchors: bool = True) -> str:
    """Return the text within an element, with line ends at breaks and around blocks.

    Args:
        node: A heading, code or a cell.
        anchors: Keep the links from a heading to itself that hold letters; signs alone always go.
    """
    parts: list[str] = []
    stack: list[tuple[Any, bool]] = [(node, False)]
    while stack:
        one, leaving = stack.pop()
        tag = one.tag
        if leaving or tag in _BLOCKS:
            # Around a block, and not once more where a line has just ended.
            parts += ["\n"] if parts and not parts[-1].endswith("\n") else []
        if leaving or tag in ("script", "style"):
            continue
        if one.is_text_node:
            parts += filter(None, (one.text_content,))
        elif tag == "br":
            parts.append("\n")
        elif one.is_element_node and not (tag == "a" and _is_left_out(one, anchors)):
            stack += [(one, True)] if tag in _BLOCKS else []
            stack += [(child, False) for child in reversed(_children(one))]
    return "".join(parts)


def _is_left_out(link: Any, anchors: bool) -> bool:
    if _is_anchor(link):
        return not anchors or _LETTER.search(link.text()) is None
    # Of other links within a heading, those that show only a sign such as #.
    return (
        not anchors and (link.attributes.get("href") or "").startswith("#") and not _LETTER_OR_DIGIT.search(link.text())
    )


def _children(node: Any) -> list[Any]:
    found, child = [], node.first_child
    while child is not None:
        found.append(child)
        child = child.next
    return found
