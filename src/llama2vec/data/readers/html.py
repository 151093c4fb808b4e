"""HTML: the main content without menus; headings, code and tables as blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from llama2vec.data.documents import Document
from llama2vec.data.readers.building import TextBuilder, decoded
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
    "sphinxsidebar sidebar navbar nav navigation menu mainmenu topnav sidenav related breadcrumb breadcrumbs toc "
    "table-of-contents tableofcontents contents-menu headerlink copiable-link copiable-anchor anchorjs-link "
    "heading-anchor permalink footer page-footer site-footer navheader navfooter skip-link skiplink skip-nav "
    "cookie-banner cookies copyright prev-next-area edit-page printfooter mw-editsection noprint node-header md- "
    "sidebar bd-sidebar-primary bd-sidebar-secondary wy-nav-side rst-versions nav-panel nav-list inner-footer sr- "
    "only visually-hidden"
)
_MENUS = frozenset(_MENUS_WORDS.split())
_ROLES_WORDS = "navigation banner contentinfo search complementary menu menubar doc-toc dialog alertdialog"
_ROLES = frozenset(_ROLES_WORDS.split())
_BLOCKS_WORDS = (
    "address article blockquote body center dd details div dl dt fieldset figcaption figure form header hgroup hr html "
    "li main ol p section summary table tbody td tfoot th thead tr ul caption legend"
)
_BLOCKS = frozenset(_BLOCKS_WORDS.split())
_LAYOUT = ", ".join(f"td {inner}" for inner in ("table", "h1", "h2", "h3", "h4", "pre", "ul", "ol", "p + p"))
"""What the cells of a table hold that only arranges a page."""
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)(?![^<>]*/>)")
_ALONE_NAMES = (
    "p li td th tr dd dt option optgroup tbody thead tfoot colgroup col caption br img hr input meta link area base "
    "source track wbr param embed html body head a rp rt"
)
_ALONE = frozenset(_ALONE_NAMES.split())
"""Elements that the next one of their kind ends, or that hold nothing."""
_MOST_DEPTH = 2000
_LETTER = re.compile(r"[^\W\d_]")
_CONTENTS = 4
"""So many paragraphs in a row that only link to the same page are its table of contents, which is left out."""
_LEAST_MAIN = 200
"""A main element with fewer characters than this, and than a fifth of the page, is not the page's content."""


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
    add_page(builder, tree)
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


def add_html(builder: TextBuilder, source: str, page: int | None = None) -> None:
    """Add the content of HTML that another format holds, with the page that it stands on."""
    add_page(builder, _tree(source), page)


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


def add_page(builder: TextBuilder, tree: Any, page: int | None = None) -> None:
    """Add a parsed page to a text, without its menus unless nothing else is on it."""
    if tree.body is None:
        return
    before = len(builder.document("").text)
    _Walk(builder, page, menus=False).walk(_main(tree))
    if len(builder.document("").text) == before:
        _Walk(builder, page, menus=True).walk(tree.body)


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

    def __init__(self, builder: TextBuilder, page: int | None, *, menus: bool) -> None:
        self._builder, self._page, self._menus = builder, page, menus
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
                elif tag == "a" and (node.attributes.get("href") or "").startswith("#"):
                    stack.append((node, True))
                    self._links += 1
                children = []
                child = node.first_child
                while child is not None:
                    children.append((child, False))
                    child = child.next
                stack += reversed(children)
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
        names = f"{attributes.get('class') or ''} {attributes.get('id') or ''}".lower().split()
        if not _MENUS.isdisjoint(names) or (attributes.get("role") or "").lower() in _ROLES:
            return tag not in ("body", "main", "article")
        # Within an article a header may hold the title.
        return (tag == "header" or "header" in names) and node.css_first("h1, h2, h3, h4") is None

    def _whole(self, node: Any, tag: str) -> bool:
        """Add a heading, code or a table as a block of its own."""
        if len(tag) == 2 and tag[0] == "h" and tag[1] in "123456":
            self._flush()
            self._settle()
            words = self._words(node)
            self._builder.heading(int(tag[1]), words.strip("¶# "), self._page)
        elif tag == "pre":
            self._flush()
            self._settle()
            self._builder.add((node.text() or "").replace("\r", ""), "code", self._page)
        elif tag == "table" and node.css_first("td, th") and node.css_first(_LAYOUT) is None:
            self._flush()
            self._settle()
            self._table(node)
        else:
            return False
        self._tight = False
        return True

    def _table(self, node: Any) -> None:
        rows = [[self._words(cell) for cell in row.css("th, td")] for row in node.css("tr")]
        lines = [" | ".join(cells) for cells in rows if any(cells)]
        kind: Any = "table" if any(len(cells) > 1 for cells in rows) else "text"
        self._builder.add("\n".join(lines), kind, self._page)

    def _words(self, node: Any) -> str:
        for anchor in node.css("a.headerlink, a.permalink, a.anchor, script, style"):
            anchor.decompose()
        return " ".join((node.text() or "").split())

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
                self._builder.add(text, "text", self._page, tight=tight)
        self._contents = []
