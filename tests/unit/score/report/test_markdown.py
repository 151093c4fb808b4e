"""The report in Markdown."""

import re

from llama2vec.score.report.content import Content
from llama2vec.score.report.markdown import render_markdown


def test_markdown_shows_texts_of_users_as_they_are(content: Content) -> None:
    text = render_markdown(content)
    assert "<script>" not in re.sub(r"^    .*$", "", text, flags=re.MULTILINE).replace(r"\<script\>", "")
    assert r"\<script\>alert('x')\</script\> \|" in text
    assert "| old | 0.350 \\[0.000, 0.700\\] |" in text
    assert "**0.575** \\[0.200, 1.000\\]" in text
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings[0].startswith("# ")
    assert [line for line in headings if line.startswith("## ")][-1] == "## How this report was made"
