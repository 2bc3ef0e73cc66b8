"""The blocks a report is made of, rendered as Markdown or as one self-contained HTML page."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Heading:
    """The title of a section; level 1 is the title of the report."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; `strong` for the answer that a reader must not miss."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """A command to copy."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A picture that lies beside the report."""

    name: str
    caption: str


@dataclass(frozen=True)
class Grid:
    """A table, rendered both ways by who knows its cells."""

    markdown: str
    html: str


Block: TypeAlias = Heading | Paragraph | Bullets | Code | Picture | Grid

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:78em;margin:2em auto;padding:0 1em}"
    "p,li{max-width:62em}"
    "table{border-collapse:collapse;font-size:13px;margin:1em 0;display:block;overflow-x:auto;"
    "font-variant-numeric:tabular-nums}"
    "td,th{padding:.2em .7em;border-bottom:1px solid #ddd;white-space:nowrap}img{max-width:62em;"
    "width:100%}"
    "pre{background:#f4f4f4;padding:.7em;overflow-x:auto}"
)


def to_markdown(blocks: Sequence[Block]) -> str:
    """Returns the blocks as Markdown, pictures by their names."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def to_html(blocks: Sequence[Block], pictures: Mapping[str, bytes]) -> str:
    """Returns the blocks as one HTML page that needs no other file.

    Args:
        blocks: What to show.
        pictures: The PNG of each picture by its name; they are inlined.
    """
    body = "\n".join(_html(block, pictures) for block in blocks)
    title = next((block.text for block in blocks if isinstance(block, Heading)), "report")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text, strong):
            return f"**{text}**" if strong else text
        case Bullets(items):
            return "\n".join(f"- {item}" for item in items)
        case Code(text):
            return f"```\n{text}\n```"
        case Picture(name, caption):
            return f"![{caption}]({name})"
        case Grid(markdown, _):
            return markdown


def _html(block: Block, pictures: Mapping[str, bytes]) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Paragraph(text, strong):
            inner = html.escape(text)
            return f"<p><strong>{inner}</strong></p>" if strong else f"<p>{inner}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>"
        case Code(text):
            return f"<pre>{html.escape(text)}</pre>"
        case Picture(name, caption):
            data = base64.b64encode(pictures[name]).decode()
            return f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
        case Grid(_, page):
            return page
