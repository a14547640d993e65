"""README and the pages of docs/: their order, and the code blocks that a reader pastes."""

import re
from dataclasses import dataclass

from paths import ROOT


@dataclass(frozen=True)
class Block:
    """A code block, with the page and the heading above it."""

    page: str
    heading: str
    language: str
    text: str
    # The file that the text before the block says to save it as.
    file: str | None

    @property
    def starts_server(self) -> bool:
        """Whether the block runs a server in the foreground, in a terminal of its own."""
        return re.search(r"^(toggled serve|cargo run)\b", self.text, re.MULTILINE) is not None


def pages() -> list[str]:
    """README, and the pages in the order of the table of contents."""
    contents = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- \[[^]]+\]\(([a-z-]+\.md)\)", contents, re.MULTILINE)
    return ["README.md", *(f"docs/{name}" for name in listed)]


def blocks(page: str) -> list[Block]:
    """The code blocks of a page, in their order."""
    found, heading, prose = [], "", ""
    lines = iter((ROOT / page).read_text(encoding="utf-8").splitlines())
    for line in lines:
        if title := re.match(r"#+ (.*)", line):
            heading, prose = title[1], ""
        elif fence := re.match(r"( *)```(\w*)", line):
            text = ""
            while not (line := next(lines)).strip().startswith("```"):
                text += line.removeprefix(fence[1]) + "\n"
            file = re.findall(r"saved?(?: this)? as\s+`([\w.]+)`", prose)
            found.append(Block(page, heading, fence[2], text, file[-1] if file else None))
            prose = ""
        else:
            prose += line + "\n"
    return found


def block(page: str, heading: str, language: str = "sh") -> Block:
    """The only block of a language under a heading."""
    (found,) = [one for one in blocks(page) if (one.heading, one.language) == (heading, language)]
    return found
