"""An HTML page as a list of elements, by the standard library's tokenizer; unbalanced tags are an error."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input", "hr"}


@dataclass(eq=False)
class Element:
    tag: str
    attributes: dict[str, str | None]
    parent: Element | None
    words: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text inside, spaces collapsed."""
        return " ".join("".join(self.words).split())

    def has_class(self, name: str) -> bool:
        return name in (self.attributes.get("class") or "").split()

    def inside(self, other: Element) -> bool:
        return self.parent is not None and (self.parent is other or self.parent.inside(other))


class Page(HTMLParser):
    """``elements`` in document order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = text
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {[element.tag for element in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice in {self.get_starttag_text()}"
        element = Element(tag, dict(attrs), self._open[-1] if self._open else None)
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1].tag == tag, f"</{tag}> at {self.getpos()} closes <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.words.append(data)

    def all(self, tag: str, within: Element | None = None) -> list[Element]:
        return [e for e in self.elements if e.tag == tag and (within is None or e.inside(within))]

    def by_id(self, name: str) -> Element:
        (found,) = (element for element in self.elements if element.attributes.get("id") == name)
        return found

    def section(self, name: str) -> Element:
        """The section under the heading with that id."""
        found = self.by_id(name).parent
        assert found is not None and found.tag == "section"
        return found

    def rows(self, within: Element) -> list[list[str]]:
        """Texts of the cells of every row of every table in an element."""
        rows = self.all("tr", within)
        return [[c.text for c in self.elements if c.tag in ("td", "th") and c.parent is row] for row in rows]


def colours(style: str) -> tuple[dict[str, str], dict[str, str]]:
    """The custom properties of a style sheet's ``:root`` in light and in dark."""
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    read = [dict(re.findall(r"--([\w-]+): ([^;]+);", block)) for block in (light, dark)]
    return read[0], read[0] | read[1]


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two #rrggbb colours."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
