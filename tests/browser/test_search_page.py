"""The search page as people use it, in headless Chromium."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from service_stand_ins import Running, StandInEncoder, services, wait_until

from llama2vec.records import Passage, Place, Query
from llama2vec.retrieve.index.exact import ExactIndex
from llama2vec.retrieve.index.lexical import Bm25Index
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.retrieve.store.writer import write_store
from llama2vec.serve.loaded import PreparedQuery

pytestmark = pytest.mark.slow

Serve = Callable[..., Running]

PASSAGES = (
    Passage("camelids/llama", "The llama is a domesticated South American camelid, used as a meat and pack animal by "
            "Andean cultures since the pre-Columbian era. Llamas are social animals and live with others as a herd. "
            "Their wool is soft and contains only a small amount of lanolin.\n\nLlamas can learn simple tasks after a "
            "few repetitions. When using a pack, they can carry about 25 to 30% of their body weight for 8 to 13 km.",
            "Llama"),
    Passage("camelids/alpaca", "The alpaca is a species of South American camelid mammal. It is kept in herds that "
            "graze on the level heights of the Andes. Alpacas are bred for their fibre, which is used for making "
            "knitted and woven items, similar to sheep's wool.", "Alpaca"),
    Passage("camelids/vicuna", "The vicuña is one of the two wild South American camelids, which live in the high "
            "alpine areas of the Andes. Its wool is very fine and warm, and is <b>expensive</b> because it can only be "
            "shorn every three years.", "Vicuña"),
    Passage("rivers/amazon", "The Amazon carries more water than any other river in the world: about 215,000 m³ a "
            "second.", "Amazon"),
    Passage("aerodynamics-0018", "On a swept wing the stall begins at the tips. A washout of the outer wing, a "
            "fence, or a dog-tooth in the leading edge delays it."),
    Passage("birds/condor", "The Andean condor is a large black bird that soars over the Andes for hours without one "
            "beat of its wings.", "Andean condor"),
)  # fmt: skip

_GROUPS = (
    "llama camelid wool alpaca vicuña pack animals fibre",
    "river water amazon",
    "wing stall delay delays",
    "bird soars wings",
)


class TopicEncoder(StandInEncoder):
    """One dimension a topic, and a little of everything so that each passage has a score of its own."""

    def encode(self, texts: Sequence[str], lane: object) -> npt.NDArray[np.float32]:
        assert self.gate.wait(20)
        return self._vectors(texts)

    def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
        return self._vectors([passage.full_text for passage in passages])

    def encode_queries(self, queries: Sequence[Query], /) -> npt.NDArray[np.float32]:
        return self._vectors([query.text for query in queries])

    def _vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        words = [set(text.casefold().replace(".", " ").replace(",", " ").split()) for text in texts]
        counts = [[0.3, *(len(found & set(group.split())) for group in _GROUPS), len(found) / 50] for found in words]
        vectors = np.array([[*row, *([0.1] * (self.dimension - len(row)))] for row in counts], dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def retriever(tmp_path: Path) -> tuple[Retriever, PreparedQuery, TopicEncoder]:
    """The passages, searched by vectors, by BM25, and by both."""
    encoder = TopicEncoder()
    store = write_store(lambda: iter(PASSAGES), encoder, tmp_path / "store", source={})
    query = PreparedQuery(encoder.contract_hash)
    return Retriever(ExactIndex(store), query, bm25=Bm25Index.build(PASSAGES)), query, encoder


@pytest.fixture
def serve(retriever: tuple[Retriever, PreparedQuery, TopicEncoder]) -> Iterator[Serve]:
    """Return a function that starts the service."""
    searcher, query, encoder = retriever
    with services() as start:
        yield lambda **more: start(encoder=encoder, searcher=searcher, query=query, **more)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Headless Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("the page is tested where chromium and chromedriver are installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    flags = (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "disable-dev-shm-usage", "window-size=1280,900",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    )  # fmt: skip
    for flag in flags:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


class Page:
    """What a person sees and does."""

    def __init__(self, browser: Chrome) -> None:
        self.browser = browser

    def open(self, url: str) -> None:
        self.browser.get(url)

    def one(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all elements, read at one moment."""
        script = "return [...document.querySelectorAll(arguments[0])].map((element) => element.innerText.trim())"
        return list(self.browser.execute_script(script, selector))

    def press(self, *keys: str) -> None:
        """Press keys wherever the focus is."""
        ActionChains(self.browser).send_keys(*keys).perform()

    def ask(self, question: str, results: str) -> None:
        """Type a question and wait for results that the status tells of."""
        field = self.one("#question")
        field.clear()
        field.send_keys(question, Keys.ENTER)
        self.status(results)

    def status(self, part: str) -> None:
        """Wait for the results of all that is typed: the page also searches while someone types."""
        wait_until(lambda: self.is_settled() and part in self.texts("#status")[0])

    def is_settled(self) -> bool:
        shown = "document.title.startsWith(document.getElementById('question').value.trim())"
        return bool(self.browser.execute_script(f"return {shown} && !document.body.classList.contains('busy')"))

    def mode(self, name: str) -> WebElement:
        wait_until(lambda: name in self.texts("#modes button"))
        return next(button for button in self.all("#modes button") if button.text == name)

    @contextmanager
    def emulating(self, feature: str, value: str) -> Iterator[None]:
        """Let the browser prefer what a media feature says."""
        chosen = {"features": [{"name": feature, "value": value}]}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", chosen)
        try:
            yield
        finally:
            self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    def computed(self, selector: str, name: str) -> str:
        """Return a property of the first such element's style, as the browser computes it."""
        script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
        return str(self.browser.execute_script(script, selector, name))

    def contents(self, selector: str) -> list[str]:
        """Return the texts of all elements as they are in the page, with their white space."""
        script = "return [...document.querySelectorAll(arguments[0])].map((element) => element.textContent)"
        return list(self.browser.execute_script(script, selector))

    def focused(self) -> str:
        return str(self.browser.execute_script("return document.activeElement.innerText || document.activeElement.id"))

    def accessibility_problems(self) -> list[str]:
        """Return what axe-core finds serious or critical."""
        self.browser.execute_script((files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8"))
        found: Any = self.browser.execute_async_script("axe.run().then(arguments[0])")
        return [
            f"{problem['impact']}: {problem['id']}: {problem['nodes'][0]['html']}"
            for problem in found["violations"]
            if problem["impact"] in ("serious", "critical")
        ]


@pytest.fixture
def page(browser: Chrome) -> Iterator[Page]:
    browser.set_window_size(1280, 900)
    browser.get("about:blank")
    browser.get_log("browser")
    yield Page(browser)
    # A policy that blocks something of the page's own, or an exception in its script, shows up here.
    problems = [entry for entry in browser.get_log("browser") if "Failed to load resource" not in entry["message"]]
    assert problems == []
    browser.get("about:blank")


def test_a_search_shows_ranked_passages_with_the_evidence_marked(page: Page, serve: Serve) -> None:
    page.open(serve().url)
    wait_until(lambda: page.focused() == "question")
    assert "Find passages by what they mean." in page.texts("#welcome")[0]
    page.ask("which wings delay the stall", "by Hybrid")
    assert page.texts(".hit .title")[0] == "aerodynamics-0018"
    first = page.one(".hit")
    # Little words are no evidence, and other endings of a word are.
    assert [mark.text for mark in first.find_elements(By.TAG_NAME, "mark")] == ["wing", "stall", "wing", "delays"]
    assert float(first.find_element(By.CSS_SELECTOR, ".score").text) > 0
    assert page.browser.current_url.endswith("/?q=which+wings+delay+the+stall&mode=hybrid")
    assert page.browser.title == "which wings delay the stall · llama2vec"
    assert page.accessibility_problems() == []


def test_typing_searches_after_a_pause(page: Page, serve: Serve) -> None:
    page.open(serve().url)
    page.press("alpaca")
    page.status("passages by Hybrid")
    assert page.texts(".hit .title")[0] == "Alpaca"


class TopicTable:
    """A query table of the same topics."""

    contract_hash = TopicEncoder.contract_hash

    def encode_queries(self, queries: Sequence[str], /) -> npt.NDArray[np.float32]:
        return TopicEncoder().encode_queries([Query("q", text) for text in queries])


def test_a_query_table_answers_while_someone_types_and_the_model_afterwards(page: Page, serve: Serve) -> None:
    service = serve(table=TopicTable())
    page.open(service.url)
    page.mode("Hybrid")
    service.encoder.gate.clear()
    page.press("alpaca")
    wait_until(lambda: page.texts(".hit .title")[:1] == ["Alpaca"])
    assert "to read the question" not in page.texts("#status")[0]
    service.encoder.gate.set()
    page.status("to read the question")
    assert page.texts(".hit .title")[0] == "Alpaca"


def test_a_page_that_was_open_before_the_service_answers_while_someone_types_as_well(page: Page, serve: Serve) -> None:
    go_on = threading.Event()
    service = serve(table=TopicTable(), wait=False, load=lambda: go_on.wait(20))
    page.open(service.url)
    page.press("llama", Keys.ENTER)
    wait_until(lambda: "The model is still loading." in page.texts("#trouble")[0])
    go_on.set()
    page.status("by Hybrid")
    wait_until(lambda: page.browser.execute_script("return state.quick"))
    service.encoder.gate.clear()
    page.one("#question").clear()
    page.one("#question").send_keys("alpaca")
    wait_until(lambda: page.texts(".hit .title")[:1] == ["Alpaca"])
    service.encoder.gate.set()
    page.status("to read the question")


def test_another_mode_is_a_click_away_and_the_back_button_leads_back(page: Page, serve: Serve) -> None:
    page.open(serve().url)
    page.ask("amazon river", "by Hybrid")
    assert len(page.all(".hit")) == 6
    page.mode("BM25").click()
    page.status("1 passage by BM25")
    assert page.texts(".hit .title") == ["Amazon"]
    assert page.mode("BM25").get_attribute("aria-pressed") == "true"
    assert page.mode("Hybrid").get_attribute("aria-pressed") == "false"
    page.browser.back()
    page.status("6 passages by Hybrid")
    assert page.mode("Hybrid").get_attribute("aria-pressed") == "true"
    page.browser.forward()
    page.status("1 passage by BM25")
    page.browser.refresh()
    page.status("1 passage by BM25")
    assert page.one("#question").get_attribute("value") == "amazon river"


def test_side_by_side_shows_the_modes_beside_each_other_and_what_they_share(page: Page, serve: Serve) -> None:
    page.open(f"{serve().url}/?q=camelid+wool")
    page.status("by Hybrid")
    page.one("#compare").click()
    page.status("Hybrid: 6 passages · Dense: 6 passages · BM25: ")
    assert page.texts(".column h2") == ["Hybrid", "Dense", "BM25"]
    tops = {column.rect["y"] for column in page.all(".column")}
    assert len(tops) == 1
    assert page.texts(".column:first-child .hit:first-child .also")[0].startswith("also Dense ")
    assert page.browser.current_url.endswith("mode=hybrid,dense,bm25")
    page.mode("Hybrid").click()
    page.status("Dense: ")
    assert page.texts(".column h2") == ["Dense", "BM25"]
    assert page.accessibility_problems() == []
    page.one("#compare").click()
    page.status("by Dense")


def test_an_empty_result_says_so_and_what_to_do(page: Page, serve: Serve) -> None:
    page.open(serve().url)
    page.mode("BM25").click()
    page.ask("zeppelin", "Nothing found by BM25 for “zeppelin”. Try other words, or another way to search.")
    assert page.all(".hit") == []
    assert page.accessibility_problems() == []


def test_when_the_server_is_gone_the_page_says_so_and_goes_on_when_it_is_back(page: Page, serve: Serve) -> None:
    service = serve()
    page.open(service.url)
    page.ask("llama", "by Hybrid")
    service.stop()
    page.mode("BM25").click()
    wait_until(lambda: "The server does not answer." in page.texts("#trouble")[0])
    assert page.all(".hit") == []
    assert page.one("#retry").is_displayed()
    assert page.accessibility_problems() == []
    serve(port=int(service.url.rpartition(":")[2]))
    # By itself, after a few seconds.
    page.status("1 passage by BM25")
    assert not page.one("#trouble").is_displayed()


def test_everything_works_by_keyboard_alone(page: Page, serve: Serve) -> None:
    page.open(serve().url)
    wait_until(lambda: page.focused() == "question")
    page.press("how many km do they carry a pack", Keys.ENTER)
    page.status("by Hybrid")
    assert page.one("#question").get_property("value") == "how many km do they carry a pack"
    page.press(Keys.ARROW_DOWN)
    assert page.focused().startswith("1")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP)
    assert page.focused().startswith("2")
    page.press(Keys.ARROW_UP)
    row = page.texts(".hit .title").index("Llama")
    page.press(*[Keys.ARROW_DOWN] * row)
    before = page.texts(".hit .text")[row]
    assert before.startswith("…")
    page.press(Keys.ENTER)
    assert page.all(".open")[row].get_attribute("aria-expanded") == "true"
    whole = page.texts(".hit .text")[row]
    assert whole.startswith("The llama is")
    assert whole.endswith("8 to 13 km.")
    page.press(Keys.ENTER)
    assert page.texts(".hit .text")[row] == before
    page.press("/")
    assert page.focused() == "question"
    page.press("amazon", Keys.ENTER)
    page.status("by Hybrid")
    page.press(Keys.TAB, Keys.TAB, Keys.TAB, Keys.TAB)
    assert page.focused() == "BM25"
    page.press(Keys.SPACE)
    page.status("1 passage by BM25")
    assert page.focused() == "BM25"
    page.press(Keys.TAB, Keys.SPACE)
    page.status("Hybrid: ")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    assert page.focused().startswith("1")
    columns = "return [...document.querySelectorAll('.column')].findIndex((c) => c.contains(document.activeElement))"
    assert page.browser.execute_script(columns) == 1
    page.press(Keys.ARROW_UP)
    assert page.focused() == "question"


def test_what_a_passage_says_is_text_and_never_markup(page: Page, serve: Serve) -> None:
    page.open(f"{serve().url}/?q=vicu%C3%B1a&mode=bm25")
    page.status("1 passage by BM25")
    assert "<b>expensive</b>" in page.texts(".hit .text")[0]
    assert page.all(".hit .text b") == []
    # Accents do not hide a word.
    assert page.texts(".hit mark")[0] == "Vicuña"


def test_evidence_is_marked_in_scripts_without_spaces(page: Page, tmp_path: Path) -> None:
    passages = [Passage("a", "GPU版本的羊驼模型在安第斯山脉。"), Passage("b", "라마는 안데스에서 짐을 나른다.")]
    passages.append(Passage("c", "แมวชอบกินปลา; मेज़ पर किताब"))
    encoder = TopicEncoder()
    store = write_store(lambda: iter(passages), encoder, tmp_path / "signs", source={})
    query = PreparedQuery(encoder.contract_hash)
    searcher = Retriever(ExactIndex(store), query, bm25=Bm25Index.build(passages, language="zh"))
    with services() as start:
        page.open(f"{start(encoder=encoder, searcher=searcher, query=query).url}/?mode=bm25&q=安第斯的羊驼")
        page.status("1 passage by BM25")
        assert page.texts(".hit mark") == ["的羊驼", "安第斯"]
        page.ask("gpu 안데스 라마", "2 passages by BM25")
        assert sorted(page.texts(".hit mark")) == ["GPU", "라마", "안데스"]
        page.ask("ปลา किताब", "1 passage by BM25")
        assert page.texts(".hit mark") == ["ปลา", "किताब"]


def test_little_words_of_the_passages_language_are_not_marked(page: Page, tmp_path: Path) -> None:
    passages = [Passage("a", "Die Miete ist hoch, und die Wohnung ist es nicht."), Passage("b", "Lama")]
    encoder = TopicEncoder()
    store = write_store(lambda: iter(passages), encoder, tmp_path / "german", source={})
    query = PreparedQuery(encoder.contract_hash)
    searcher = Retriever(ExactIndex(store), query, bm25=Bm25Index.build(passages))
    with services() as start:
        page.open(f"{start(encoder=encoder, searcher=searcher, query=query).url}/?mode=bm25&q=wie+ist+die+Miete")
        page.status("1 passage by BM25")
        assert page.texts(".hit mark") == ["Miete"]


def test_a_token_is_asked_for_and_kept_for_this_tab_alone(page: Page, serve: Serve) -> None:
    page.open(f"{serve(token='sesame').url}/?q=llama")
    wait_until(lambda: page.one("#token-form").is_displayed())
    assert page.accessibility_problems() == []
    page.press("wrong", Keys.ENTER)
    wait_until(lambda: page.one("#token-form").is_displayed() and page.one("#token").get_attribute("value") == "")
    page.one("#token").send_keys("sesame", Keys.ENTER)
    page.status("by Hybrid")
    assert not page.one("#trouble").is_displayed()
    assert "sesame" not in page.browser.current_url
    assert page.browser.execute_script("return localStorage.length") == 0
    page.browser.execute_script("sessionStorage.clear()")


def test_the_page_fits_a_phone(page: Page, serve: Serve) -> None:
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        page.open(f"{serve().url}/?q=camelid+wool&mode=hybrid,dense,bm25")
        page.status("Hybrid: ")
        assert page.browser.execute_script("return document.documentElement.scrollWidth") <= 390
        # Beside each other to be swiped, each nearly as wide as the screen.
        columns = [column.rect for column in page.all(".column")]
        assert len({column["y"] for column in columns}) == 1
        assert all(300 < column["width"] < 390 for column in columns)
        for button in page.all("button"):
            assert not button.is_displayed() or button.rect["height"] >= 24, button.text
        assert page.accessibility_problems() == []
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_modes_and_their_comparison_share_a_line_of_a_small_phone(page: Page, serve: Serve) -> None:
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 640, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        page.open(serve().url)
        page.mode("BM25")
        assert page.one("#modes").rect["y"] == page.one("#compare-choice").rect["y"]
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_dark_mode_is_as_readable(page: Page, serve: Serve) -> None:
    with page.emulating("prefers-color-scheme", "dark"):
        page.open(f"{serve().url}/?q=camelid+wool&mode=dense,hybrid")
        page.status("Hybrid: ")
        assert (
            page.browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(17, 21, 28)"
        )
        assert page.accessibility_problems() == []


def test_a_mode_that_the_index_lacks_is_reported_and_not_replaced(page: Page, serve: Serve) -> None:
    page.open(f"{serve().url}/?q=camelid+wool&mode=sparse")
    wait_until(lambda: page.one("#trouble").is_displayed())
    assert page.one("#trouble-text").text == "Mode: Input should be 'dense', 'bm25' or 'hybrid'."
    assert page.all(".hit") == []
    assert page.browser.current_url.endswith("mode=sparse")


TEXT = "The llama carries loads.\n\nIts wool is soft.\n\nThe herd sleeps.\n\nIt eats grass in the Andes."
PARTS = TEXT.split("\n\n")


@pytest.fixture
def documents(tmp_path: Path) -> Iterator[Serve]:
    """Return a function that serves a document of four passages and one of a single passage, with their files."""
    encoder = TopicEncoder()
    files = tmp_path / "files"
    (files / "guide").mkdir(parents=True)
    (files / "guide" / "llama.md").write_text(TEXT)
    passages = [
        Passage(f"guide/llama.md#{number}", part, "Guide › Animals", Place("guide/llama.md", TEXT.index(part),
                TEXT.index(part) + len(part), 2 * number - 1, 2 * number - 1), {"year": 2020})
        for number, part in enumerate(PARTS, start=1)
    ]  # fmt: skip
    passages.append(Passage("old.pdf", "Wool of the alpaca.", "", Place("old.pdf", 0, 19, page=7), {"year": 1999}))
    store = write_store(lambda: iter(passages), encoder, tmp_path / "documents", source={})
    query = PreparedQuery(encoder.contract_hash)
    searcher = Retriever(ExactIndex(store), query, bm25=Bm25Index.build(passages))
    with services() as start:
        yield lambda **more: start(
            **{"encoder": encoder, "searcher": searcher, "query": query, "files": str(files), **more}
        )


def test_a_document_is_one_hit_whose_other_places_open_in_their_surroundings(page: Page, documents: Serve) -> None:
    page.open(f"{documents().url}/?q=soft+wool+llama&mode=bm25")
    page.status("2 documents by BM25")
    assert page.texts(".hit .id") == ["guide/llama.md:3", ""]
    assert page.texts(".hit .title")[1] == "old.pdf:7"
    assert page.texts(".hit .more")[0].split() == ["also", "line", "1"]
    page.one(".more button").click()
    wait_until(lambda: page.texts(".context .here") == [PARTS[0]])
    assert page.texts(".context .near") == [PARTS[1]]
    assert page.texts(".context .where") == ["guide/llama.md:1"]
    page.one(".in-document").click()
    wait_until(lambda: page.texts(".context .here") == [PARTS[1]])
    assert page.texts(".context .near") == [PARTS[0], PARTS[2]]
    assert page.one(".more button").get_attribute("aria-pressed") == "false"
    assert page.accessibility_problems() == []
    page.one(".context button").click()
    wait_until(lambda: page.texts(".context .near") == [PARTS[0], PARTS[2], PARTS[3]])
    page.one(".in-document").click()
    assert not page.one(".context").is_displayed()
    assert page.one(".hit .text").is_displayed()


def test_the_words_of_both_vectors_tell_why(page: Page, documents: Serve) -> None:
    page.open(f"{documents().url}/?q=soft+wool")
    page.status("2 documents by Hybrid")
    page.one(".reasons").click()
    wait_until(lambda: page.texts(".why li") == ["llama"])
    assert "Cosine 0.750" in page.texts(".why")[0]
    assert page.one(".reasons").get_attribute("aria-expanded") == "true"
    assert page.accessibility_problems() == []
    page.one(".reasons").click()
    assert not page.one(".why").is_displayed()


def test_a_filter_is_part_of_the_address_and_its_mistakes_are_shown_beside_it(page: Page, documents: Serve) -> None:
    page.open(f"{documents().url}/?q=wool&mode=bm25")
    page.status("2 documents by BM25")
    where = page.one("#where")
    where.click()
    wait_until(lambda: "Fields: id, title, path, page, year." in page.texts("#where-hint")[0])
    where.send_keys("year > 2000", Keys.ENTER)
    page.status("1 document by BM25")
    assert page.browser.current_url.endswith("?q=wool&mode=bm25&where=year+%3E+2000")
    page.browser.refresh()
    page.status("1 document by BM25")
    where = page.one("#where")
    assert where.get_attribute("value") == "year > 2000"
    where.send_keys(Keys.CONTROL, "a")
    where.send_keys("yaer > 2000", Keys.ENTER)
    wait_until(lambda: "unknown field 'yaer'; did you mean year?" in page.texts("#where-problem")[0])
    assert where.get_attribute("aria-invalid") == "true"
    assert not page.one("#trouble").is_displayed()
    assert page.accessibility_problems() == []
    where.send_keys(Keys.CONTROL, "a")
    where.send_keys("year > 3000", Keys.ENTER)
    page.status("Nothing found by BM25 for “wool” among what fits the filter.")
    page.browser.back()
    page.browser.back()
    page.status("1 document by BM25")
    assert page.one("#where").get_attribute("value") == "year > 2000"


def test_the_document_opens_in_a_tab_as_text_and_runs_nothing(page: Page, documents: Serve, tmp_path: Path) -> None:
    (tmp_path / "files" / "guide" / "llama.md").write_text("<script>document.title = 'owned'</script>\n" + TEXT)
    page.open(f"{documents().url}/?q=soft+wool&mode=bm25")
    page.status("by BM25")
    first = page.browser.current_window_handle
    page.one(".title a").click()
    wait_until(lambda: len(page.browser.window_handles) == 2)
    page.browser.switch_to.window(next(handle for handle in page.browser.window_handles if handle != first))
    try:
        wait_until(lambda: "/files/guide/llama.md" in page.browser.current_url)
        wait_until(lambda: "<script>" in page.texts("body")[0])
        assert page.browser.title != "owned"
    finally:
        page.browser.close()
        page.browser.switch_to.window(first)


def test_the_keyboard_reaches_every_part_of_a_hit(page: Page, documents: Serve) -> None:
    page.open(f"{documents().url}/?q=soft+wool+llama&mode=bm25")
    page.status("2 documents by BM25")
    page.press("/", Keys.ARROW_DOWN)
    seen = []
    for _ in range(4):
        page.press(Keys.TAB)
        seen.append(page.focused())
    assert seen == ["Guide › Animals", "line 1", "In its document", "Why this hit"]
    page.press(Keys.ENTER)
    wait_until(lambda: page.texts(".why li") == ["llama"])


def of_document(document: str, texts: Sequence[str], title: str = "", between: str = "\n") -> list[Passage]:
    """Return the passages of a document, whose text they are together."""
    passages, begin, line = [], 0, 1
    for number, text in enumerate(texts, start=1):
        last = line + text.count("\n")
        place = Place(document, begin, begin + len(text), line, last)
        passages.append(Passage(f"{document}#{number}", text, title, place))
        begin, line = begin + len(text) + len(between), last + between.count("\n")
    return passages


@pytest.fixture
def serve_passages(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Return a function that serves passages."""
    encoder = TopicEncoder()
    with services() as start:

        def run(passages: Sequence[Passage], **more: Any) -> Running:
            store = write_store(lambda: iter(passages), encoder, tmp_path / "store", source={})
            query = PreparedQuery(encoder.contract_hash)
            searcher = Retriever(ExactIndex(store), query, bm25=Bm25Index.build(passages))
            return start(encoder=encoder, searcher=searcher, query=query, **more)

        yield run


CODE = (
    "def carry(load):\n    # A llama carries a load of 25 to 30 percent of its own weight and no more than that.\n"
    "    if load > 0.3:\n        raise ValueError('too much for a llama')\n\n    return load"
    "\n\n\ndef rest(hours):\n    # It lies down when it has carried enough and waits.\n    return sleep(hours)",
    "def wool():\n    # Soft, fine and warm; it is shorn once in two years and sold by its weight and its color.\n"
    "    for hair in fleece:\n        yield hair\n\n\n",
)


def test_source_code_keeps_its_indentation(page: Page, serve_passages: Callable[..., Running]) -> None:
    passages = [*of_document("tool.py", CODE), *of_document("guide.md", ["A llama carries a load."])]
    page.open(f"{serve_passages(passages).url}/?q=llama+load+weight&mode=bm25")
    page.status("2 documents by BM25")
    page.one(".open").click()
    assert page.contents(".hit .text")[0] == CODE[0]
    assert page.computed(".hit .text", "white-space-collapse") == "preserve"
    assert "mono" in page.computed(".hit .text", "font-family")
    assert "mono" not in page.computed(".hit:last-child .text", "font-family")
    page.one(".in-document").click()
    wait_until(lambda: page.contents(".context p:not(.where)") == [CODE[0], CODE[1].rstrip()])
    assert page.computed(".context .here", "white-space-collapse") == "preserve"
    assert "mono" in page.computed(".context .here", "font-family")


def test_a_short_passage_is_shown_with_its_lines(page: Page, serve_passages: Callable[..., Running]) -> None:
    passages = of_document("list.md", ["- llama\n  - wool\n  - loads"])
    page.open(f"{serve_passages(passages).url}/?q=llama&mode=bm25")
    page.status("1 document by BM25")
    assert page.contents(".hit .text") == ["- llama\n  - wool\n  - loads"]
    assert page.all(".open") == []


def test_text_that_runs_from_right_to_left_is_laid_out_so(page: Page, serve_passages: Callable[..., Running]) -> None:
    passages = [
        *of_document("arabic.md", ["صوف اللاما ناعم.", "يعيش في الجبال."], "اللاما"),
        *of_document("b.md", ["The wool."], "Wool"),
    ]
    page.open(serve_passages(passages).url)
    page.mode("BM25").click()
    assert page.computed("#question", "direction") == "ltr"
    page.ask("صوف", "1 document by BM25")
    page.one(".in-document").click()
    wait_until(lambda: len(page.all(".context .near")) == 1)
    for part in ("#question", ".title", ".text", ".context .here", ".context .near"):
        assert page.computed(part, "direction") == "rtl", part
        assert page.computed(part, "text-align") == "start", part
    assert page.computed(".context .here", "border-right-width") == "3px"
    page.ask("wool", "1 document by BM25")
    assert [page.computed(part, "direction") for part in ("#question", ".title", ".text")] == ["ltr"] * 3


def test_arrow_keys_go_on_from_wherever_the_focus_is_in_a_hit(page: Page, serve: Serve) -> None:
    page.open(f"{serve().url}/?q=camelid+wool")
    page.status("by Hybrid")
    place = "return [...document.querySelectorAll('.hit')].indexOf(document.activeElement)"
    for key, row in ((Keys.ARROW_DOWN, 3), (Keys.ARROW_UP, 1)):
        page.browser.execute_script("document.querySelectorAll('.hit')[2].querySelector('.reasons').focus()")
        page.press(key)
        assert page.browser.execute_script(place) == row


def test_arrow_keys_scroll_a_document_that_is_open(page: Page, serve_passages: Callable[..., Running]) -> None:
    lines = "\n".join(f"The llama carries load {number}." for number in range(60))
    page.open(f"{serve_passages(of_document('a.md', [lines, lines])).url}/?q=llama&mode=bm25")
    page.status("1 document by BM25")
    page.one(".in-document").click()
    wait_until(lambda: len(page.all(".context .here")) == 1)
    assert page.accessibility_problems() == []
    assert page.one(".context").get_attribute("aria-label") == "In its document: a.md:1"
    page.browser.execute_script("document.querySelector('.context').focus()")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    wait_until(lambda: page.browser.execute_script("return document.querySelector('.context').scrollTop") > 0)
    assert page.browser.execute_script("return document.activeElement.className") == "context"


def test_either_the_whole_text_or_the_document_is_open(page: Page, serve_passages: Callable[..., Running]) -> None:
    long = "The llama carries loads. " * 20 + "Then it rests."
    page.open(f"{serve_passages(of_document('a.md', [long, 'It sleeps.'])).url}/?q=llama&mode=bm25")
    page.status("1 document by BM25")
    button, document, before = page.one(".open"), page.one(".in-document"), page.texts(".hit .text")
    document.click()
    wait_until(lambda: len(page.all(".context .here")) == 1)
    button.click()
    assert page.texts(".hit .text") == [long]
    assert page.one(".text").is_displayed()
    assert not page.one(".context").is_displayed()
    assert (button.get_attribute("aria-expanded"), document.get_attribute("aria-expanded")) == ("true", "false")
    document.click()
    assert page.one(".context").is_displayed()
    assert not page.one(".text").is_displayed()
    assert (button.get_attribute("aria-expanded"), document.get_attribute("aria-expanded")) == ("false", "true")
    document.click()
    assert page.texts(".hit .text") == before


def test_a_title_is_a_link_where_the_document_can_be_opened_and_else_text(page: Page, documents: Serve) -> None:
    page.open(f"{documents().url}/?q=soft+wool+llama&mode=bm25")
    page.status("2 documents by BM25")
    assert page.one(".hit .title a").get_attribute("href").split("#")[0].endswith("/files/guide/llama.md")
    page.open(f"{documents(files=None).url}/?q=soft+wool+llama&mode=bm25")
    page.status("2 documents by BM25")
    assert page.texts(".hit .title") == ["Guide › Animals", "old.pdf:7"]
    assert page.all(".title a, .title button") == []


def test_a_question_that_is_cut_is_told(page: Page, serve: Serve) -> None:
    page.open(serve().url)
    page.mode("Hybrid")
    # Typing so much takes long.
    page.browser.execute_script("at('question').value = 'llama '.repeat(300); search({ meant: true })")
    page.status("to search). Only the beginning of the question was read.")
    page.one("#compare").click()
    page.status("BM25: ")
    assert page.texts("#status")[0].endswith(". Only the beginning of the question was read.")
    page.ask("llama", "BM25: ")
    assert "beginning" not in page.texts("#status")[0]


def test_a_full_list_says_so_and_goes_on(page: Page, serve_passages: Callable[..., Running]) -> None:
    passages = [one for number in range(12) for one in of_document(f"{number}.md", [f"Llama number {number}."])]
    url = serve_passages(passages, max_depth=30).url
    page.open(f"{url}/?q=llama&mode=bm25")
    page.status("First 10 documents by BM25")
    assert page.one("#deeper").text == "Show more"
    assert page.accessibility_problems() == []
    page.one("#deeper").click()
    page.status("12 documents by BM25")
    assert not page.texts("#status")[0].startswith("First")
    assert page.browser.current_url.endswith("?q=llama&mode=bm25&depth=30")
    assert not page.one("#deeper").is_displayed()
    # The keyboard goes on at the first hit that is new.
    wait_until(lambda: page.focused().startswith("11"))
    page.browser.refresh()
    page.status("12 documents by BM25")
    page.browser.back()
    page.status("First 10 documents by BM25")
    page.browser.forward()
    page.status("12 documents by BM25")
    page.ask("number", "First 10 documents by BM25")
    assert "depth" not in page.browser.current_url


def test_a_list_is_never_longer_than_the_service_allows(page: Page, serve_passages: Callable[..., Running]) -> None:
    passages = [one for number in range(14) for one in of_document(f"{number}.md", [f"Llama number {number}."])]
    page.open(f"{serve_passages(passages, max_depth=12).url}/?q=llama&mode=bm25")
    page.status("First 10 documents by BM25")
    page.one("#deeper").click()
    page.status("First 12 documents by BM25")
    assert not page.one("#deeper").is_displayed()
    page.open(f"{serve_passages(passages, max_depth=3).url}/?q=llama&mode=bm25")
    page.status("First 3 documents by BM25")
    assert not page.one("#deeper").is_displayed()


def test_all_places_of_a_document_can_be_shown(page: Page, serve_passages: Callable[..., Running]) -> None:
    page.open(f"{serve_passages(of_document('a.md', ['The llama.'] * 10)).url}/?q=llama&mode=bm25")
    page.status("1 document by BM25")
    assert len(page.all(".more button")) == 7
    rest = page.one(".more .rest")
    assert rest.text == "and 3 more"
    rest.click()
    assert len(page.all(".more button")) == 9
    assert page.all(".more .rest") == []
    assert page.focused() == page.texts(".more button")[6]
    page.all(".more button")[8].click()
    wait_until(lambda: len(page.all(".context .here")) == 1)


def test_with_forced_colors_everything_can_still_be_seen(page: Page, serve: Serve) -> None:
    with page.emulating("forced-colors", "active"):
        page.open(f"{serve().url}/?q=camelid+wool")
        page.status("by Hybrid")
        ground = page.computed("body", "background-color")
        assert page.computed(".modes [aria-pressed=true]", "background-color") != ground
        assert page.computed(".modes [aria-pressed=false]", "background-color") in (ground, "rgba(255, 255, 255, 0)")
        assert page.computed(".bar-of-score i", "background-color") != ground
        assert page.computed("mark", "background-color") != ground
        assert page.computed("#form button", "border-top-style") == "solid"


def test_a_page_that_opens_while_the_model_loads_says_so_and_gets_its_modes(page: Page, serve: Serve) -> None:
    go_on = threading.Event()
    page.open(serve(wait=False, load=lambda: go_on.wait(20)).url)
    wait_until(lambda: page.texts("#status") == ["The model is loading…"])
    assert page.all("#modes button") == []
    go_on.set()
    page.mode("Hybrid")
    assert page.texts("#status") == [""]


def test_a_passage_inside_a_line_begins_with_an_ellipsis(page: Page, serve_passages: Callable[..., Running]) -> None:
    sentences = ["The llama carries loads.", "Its wool is soft.", "It sleeps."]
    page.open(f"{serve_passages(of_document('a.md', sentences, between=' ')).url}/?q=soft+wool&mode=bm25")
    page.status("1 document by BM25")
    assert page.texts(".hit .text") == ["…Its wool is soft."]
    assert page.all(".open") == []
    page.ask("sleeps", "1 document by BM25")
    page.one(".in-document").click()
    wait_until(lambda: page.texts(".context p:not(.where)") == ["…Its wool is soft.", "It sleeps."])
    page.ask("llama", "1 document by BM25")
    assert page.texts(".hit .text") == ["The llama carries loads."]


@pytest.fixture
def long_documents(encoder_of_topics: TopicEncoder, tmp_path: Path) -> Iterator[Serve]:
    """Twelve documents, one of program text and one in Hebrew."""
    code = "def wool(self):\n    while self.soft:\n        if self.full:\n            yield self.wool\n" + "again " * 60
    soft = {f"d{number:02}.md": f"Soft wool number {number}." for number in range(10)}
    texts = {"wool.py": code, "he.md": "הצמר של האלפקה רך. wool", **soft}
    passages = [Passage(f"{name}#1", text, name, Place(name, 0, len(text), 1, 2)) for name, text in texts.items()]
    store = write_store(lambda: iter(passages), encoder_of_topics, tmp_path / "long", source={})
    query = PreparedQuery(encoder_of_topics.contract_hash)
    searcher = Retriever(ExactIndex(store), query, bm25=Bm25Index.build(passages))
    with services() as start:
        yield lambda **more: start(encoder=encoder_of_topics, searcher=searcher, query=query, **more)


@pytest.fixture
def encoder_of_topics() -> TopicEncoder:
    return TopicEncoder()


def test_more_hits_are_a_click_away_and_part_of_the_address(page: Page, long_documents: Serve) -> None:
    page.open(f"{long_documents().url}/?q=wool&mode=bm25")
    page.status("First 10 documents by BM25")
    page.one(".deeper").click()
    page.status("12 documents by BM25")
    assert len(page.all(".hit")) == 12
    assert "depth=30" in page.browser.current_url
    assert not page.one(".deeper").is_displayed()
    page.ask("soft", "documents by BM25")
    assert "depth" not in page.browser.current_url


def test_a_service_that_allows_fewer_hits_is_asked_for_no_more(page: Page, long_documents: Serve) -> None:
    page.open(f"{long_documents(max_depth=20).url}/?q=wool&mode=bm25&depth=30")
    page.status("First 10 documents by BM25")
    assert "depth" not in page.browser.current_url
    page.one(".deeper").click()
    page.status("12 documents by BM25")
    assert "depth=20" in page.browser.current_url
    assert not page.one(".deeper").is_displayed()


def test_program_text_keeps_its_indentation_and_arabic_and_hebrew_run_to_the_left(
    page: Page, long_documents: Serve
) -> None:
    page.open(f"{long_documents().url}/?q=wool+yield&mode=bm25")
    page.status("First 10 documents")
    hit = page.texts(".hit .title").index("wool.py")
    page.one(f".hit:nth-child({hit + 1}) .open").click()
    assert "\n    while self.soft:\n        if self.full:" in page.texts(".hit .text")[hit]
    page.one(f".hit:nth-child({hit + 1}) .open").click()
    page.ask("האלפקה", "1 document by BM25")
    direction = "return getComputedStyle(document.querySelector('.hit .text')).direction"
    assert page.browser.execute_script(direction) == "rtl"


def test_arrows_go_on_from_the_hit_that_holds_the_focus(page: Page, long_documents: Serve) -> None:
    page.open(f"{long_documents().url}/?q=wool&mode=bm25")
    page.status("First 10 documents")
    page.browser.execute_script("document.querySelectorAll('.in-document')[4].focus()")
    page.press(Keys.ARROW_DOWN)
    assert page.focused().startswith("6")
    page.all(".in-document")[4].click()
    wait_until(lambda: bool(page.texts(".context .here")))
    page.browser.execute_script("document.querySelectorAll('.context')[4].focus()")
    page.press(Keys.ARROW_DOWN)
    assert page.browser.execute_script("return document.activeElement.className") == "context"


def test_a_title_shows_the_text_where_the_document_stood(page: Page, long_documents: Serve) -> None:
    page.open(f"{long_documents().url}/?q=wool+yield&mode=bm25")
    page.status("First 10 documents")
    hit = page.texts(".hit .title").index("wool.py")
    page.all(".in-document")[hit].click()
    wait_until(lambda: bool(page.texts(".context .here")))
    page.one(f".hit:nth-child({hit + 1}) .open").click()
    assert not page.all(".context")[hit].is_displayed()
    assert page.all(".hit .text")[hit].is_displayed()
    assert page.one(f".hit:nth-child({hit + 1}) .open").get_attribute("aria-expanded") == "true"
