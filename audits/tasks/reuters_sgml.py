"""Reuters-21578 as it is distributed: SGML files of a thousand documents each."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import NamedTuple

from audits.tasks.archives import entries

_RECORD = re.compile(r"<REUTERS\b([^>]*)>(.*?)</REUTERS>", re.DOTALL)
_ATTRIBUTE = re.compile(r'([A-Z]+)="([^"]*)"')
_TOPICS = re.compile(r"<TOPICS>(.*?)</TOPICS>", re.DOTALL)
_TOPIC = re.compile(r"<D>(.*?)</D>")
_TEXT = re.compile(r"<TEXT\b[^>]*>(.*?)</TEXT>", re.DOTALL)
_TAG = re.compile(r"</?[A-Z]+[^>]*>")


class Document(NamedTuple):
    """One document of the ModApte split.

    Attributes:
        split: train or test.
        topics: its topics, each once, in their order; there may be none.
        text: title, dateline and body without tags.
    """

    split: str
    topics: tuple[str, ...]
    text: str


def mod_apte(path: str | Path) -> list[Document]:
    """Returns the ModApte split: 9,603 training and 3,299 test documents of the whole collection.

    These are the documents whose TOPICS attribute is YES and whose LEWISSPLIT is TRAIN or TEST.

    Args:
        path: a folder of `reut2-*.sgm`, a tar or zip file of them, or a folder with that file.

    Raises:
        ValueError: no such files, a file that is no such SGML, or one that was cut off.
    """
    found = []
    for name, read in entries(path, (".sgm",), "Reuters-21578's reut2-*.sgm"):
        # The collection predates Unicode: every byte is a letter of Latin-1.
        found += _documents(name, read().decode("latin-1"))
    return [document for document in found if document is not None]


def _documents(name: str, text: str) -> list[Document | None]:
    records = _RECORD.findall(text)
    begun = len(re.findall(r"<REUTERS\b", text))
    if not records or len(records) != begun:
        raise ValueError(
            f"{name} has {begun} documents that begin and {len(records)} that end: expected SGML "
            "of Reuters-21578, <REUTERS ...> to </REUTERS>. Fetch the file again."
        )
    return [_document(name, header, body) for header, body in records]


def _document(name: str, header: str, body: str) -> Document | None:
    attributes = dict(_ATTRIBUTE.findall(header))
    topics, text = _TOPICS.search(body), _TEXT.search(body)
    if topics is None or text is None or not attributes.keys() >= {"TOPICS", "LEWISSPLIT"}:
        raise ValueError(
            f"{name}: document {attributes.get('NEWID', '?')} lacks its topics, its text or its "
            "split. Expected <TOPICS>, <TEXT> and the attributes TOPICS and LEWISSPLIT."
        )
    split = attributes["LEWISSPLIT"].lower()
    if attributes["TOPICS"] != "YES" or split not in ("train", "test"):
        return None
    named = tuple(dict.fromkeys(_TOPIC.findall(topics[1])))
    return Document(split, named, html.unescape(_TAG.sub(" ", text[1])))
