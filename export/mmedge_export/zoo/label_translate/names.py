"""The names on the labels: English with Chinese and German, from Debian's ``iso-codes``.

A name is taken if English writes it in at most :data:`LENGTH` letters of :data:`LETTERS`. Names of
countries, currencies and languages with both translations make the dictionary. All others, mostly
names of provinces and of rare languages, are read and not translated. A tenth of each is held out.
"""

from __future__ import annotations

import gettext
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "DICTIONARIES",
    "LANGUAGES",
    "LENGTH",
    "LETTERS",
    "READING",
    "Name",
    "Names",
    "is_held_out",
    "load",
    "select",
]

LANGUAGES: tuple[str, ...] = ("en", "zh", "de")
"""What a label is written out in: English (reading), Chinese, German."""

LENGTH = 20
"""Most letters of a name."""

LETTERS = " '-.ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""What a name may be made of."""

DICTIONARIES: tuple[str, ...] = ("3166-1", "4217", "639-2")
"""ISO standards whose names are translated: countries, currencies, languages."""

READING: tuple[str, ...] = ("3166-2", "639-3")
"""ISO standards whose names are read alone: provinces and the like, all languages."""

HELD_OUT_SHARE = 0.1

_LOCALES = {"zh": "zh_CN", "de": "de"}
_JSON = Path("/usr/share/iso-codes/json")
_LOCALE = Path("/usr/share/locale")
_INSTALL = "install Debian's names: apt-get install iso-codes"


@dataclass(frozen=True)
class Name:
    """What a label says, and its translations.

    Attributes:
        english: as it stands on the label.
        translations: by language of :data:`LANGUAGES`; empty where it is only read.
    """

    english: str
    translations: Mapping[str, str]

    def text(self, language: str) -> str:
        """The right answer in a language."""
        return self.english if language == "en" else self.translations[language]


@dataclass(frozen=True)
class Names:
    """All names, split by :func:`is_held_out`; no name is in two of these.

    Attributes:
        dictionary: names with translations, for training; tested on new pictures of them.
        reading: names without translations, for training.
        unseen: names that no training picture shows, of both kinds, without translations.
    """

    dictionary: tuple[Name, ...]
    reading: tuple[Name, ...]
    unseen: tuple[Name, ...]

    def characters(self) -> list[str]:
        """Every character of a right answer, in order of its code."""
        everything = {*LETTERS}
        for name in self.dictionary:
            everything.update(*name.translations.values())
        return sorted(everything)


def is_held_out(english: str) -> bool:
    """Whether training never shows the name: a tenth of all, by a hash of its letters."""
    digest = hashlib.sha256(english.casefold().encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def select(
    translated: Iterable[tuple[str, Mapping[str, str]]], untranslated: Iterable[str]
) -> Names:
    """Split names by the rule of this module.

    Args:
        translated: English names, and the translations that there are of each.
        untranslated: English names to read.
    """
    dictionary: dict[str, Name] = {}
    reading: dict[str, Name] = {}
    unseen: dict[str, Name] = {}
    # A name that differs from another in capitals alone counts as that one.
    for english, translations in translated:
        key = english.casefold()
        is_complete = all(translations.get(language) for language in _LOCALES)
        if _fits(english) and is_complete and key not in dictionary and not is_held_out(english):
            dictionary[key] = Name(english, {lang: translations[lang] for lang in _LOCALES})
        elif _fits(english) and is_held_out(english):
            unseen.setdefault(key, Name(english, {}))
    for english in untranslated:
        key = english.casefold()
        if _fits(english) and key not in dictionary:
            (unseen if is_held_out(english) else reading).setdefault(key, Name(english, {}))
    parts = (tuple(part[key] for key in sorted(part)) for part in (dictionary, reading, unseen))
    return Names(*parts)


def _fits(english: str) -> bool:
    return 2 <= len(english) <= LENGTH and set(english) <= set(LETTERS)


def load() -> Names:
    """The names of the installed ``iso-codes``.

    Raises:
        ExportError: it is not installed.
    """
    translated: list[tuple[str, dict[str, str]]] = []
    untranslated: list[str] = []
    for standard in (*DICTIONARIES, *READING):
        domain = f"iso_{standard}"
        try:
            entries = json.loads((_JSON / f"{domain}.json").read_text())[standard]
            catalogs = {
                language: gettext.translation(domain, _LOCALE, [locale])
                for language, locale in _LOCALES.items()
            }
        except OSError as error:
            raise ExportError(f"{error}: {_INSTALL}") from error
        for entry in entries:
            english = entry.get("common_name", entry["name"])
            if standard in READING:
                untranslated.append(english)
            else:
                # gettext gives back a name that it has no translation of.
                answers = {lang: catalog.gettext(english) for lang, catalog in catalogs.items()}
                if answers["zh"] == english:
                    del answers["zh"]
                translated.append((english, answers))
    return select(translated, untranslated)
