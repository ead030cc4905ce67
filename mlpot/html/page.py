"""What all pages share: their style, the escaping of text, and a policy that loads nothing.

A page states its own policy (Content-Security-Policy): no request at all, and no script but mlpot's, which is
known by its hash. A browser enforces it, even if a file name or the name of a group holds code.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from mlpot.figures.svg import Draw, svg

Kind = Literal["good", "note", "warning", "error"]
STYLE = Path(__file__).with_name("style.css").read_text(encoding="utf-8")


class Html(str):
    """Text that is markup; any other text is escaped where it enters an element."""

    __slots__ = ()


def tag(opening: str, *content: str) -> Html:
    """An element, such as `tag('td class="number"', "1.2")`, around text and elements."""
    return Html(f"<{opening}>{_inside(content)}</{opening.split()[0]}>")


def _inside(content: Iterable[str]) -> str:
    return "".join(c if isinstance(c, Html) else html.escape(c) for c in content)


def page(title: str, *content: str, verdict: tuple[Kind, str] | None = None, script: str = "") -> str:
    """A whole page.

    Args:
        content: sections, which are listed at the top if there are several.
        verdict: put behind the title, in its color.
        script: the one script that may run.
    """
    allowed = (
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" if script else "'none'"
    )
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"
    head = (
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    told = (": ", tag(f'span class="verdict {verdict[0]}"', verdict[1])) if verdict else ()
    body = (tag("h1", title, *told), *content, tag("script", Html(script)) if script else Html())
    document = tag('html lang="en"', tag("head", *head), tag("body", *body))
    return f"<!doctype html>\n{document}\n"


def section(title: str, *content: str) -> Html:
    """A part of a page with a heading."""
    return tag(f'section id="{_anchor(title)}"', tag("h2", title), *content)


def chapters(parts: Mapping[str, Sequence[str]]) -> list[Html]:
    """A list of the sections that have content, then these sections."""
    there = {title: content for title, content in parts.items() if content}
    links = (tag(f'a href="#{_anchor(title)}"', title) for title in there)
    return [tag("nav", *links), *(section(title, *content) for title, content in there.items())]


def _anchor(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower())


def finding(kind: Kind, heading: str, *content: str) -> Html:
    """A warning or an error in a frame."""
    return tag(f'div class="finding {kind}"', tag("b", heading), *content)


def more(summary: str, text: str) -> Html:
    """A text that a click shows."""
    return tag("details", tag("summary", summary), tag("pre", text))


def aside(words: str) -> Html:
    """A paragraph in small print."""
    return tag("p", tag("small", words))


def tiles(figures: Mapping[str, tuple[str, str]]) -> Html:
    """The most important numbers, each with a remark in small print."""
    shown = (
        tag("div", tag("dt", name), tag("dd", figure, tag("small", remark)))
        for name, (figure, remark) in figures.items()
    )
    return tag('dl class="tiles"', *shown)


def facts(rows: Mapping[str, str]) -> Html:
    """A table of names and texts."""
    return tag(
        'div class="scroll"', tag("table", *(tag("tr", tag("td", k), tag("td", v)) for k, v in rows.items()))
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    """A table of a first column of words, and further ones of numbers."""

    def row(kind: str, cells: Sequence[str]) -> Html:
        return tag("tr", tag(kind, cells[0]), *(tag(f'{kind} class="number"', cell) for cell in cells[1:]))

    return tag('div class="scroll"', tag("table", row("th", head), *(row("td", cells) for cells in rows)))


def pictures(drawn: Mapping[str, Draw]) -> Html:
    """Pictures side by side, as many as fit into the window.

    Args:
        drawn: the pictures by what they show, which is also their text for readers who cannot see them.
    """
    return tag('div class="pictures"', *(image("svg+xml", svg(draw), words) for words, draw in drawn.items()))


def image(format: str, content: bytes, words: str) -> Html:
    """A picture within the page."""
    data = base64.b64encode(content).decode()
    return Html(f'<img src="data:image/{format};base64,{data}" alt="{html.escape(words)}">')
