"""Writes runtime/text/unicode_tables.inc: what the ``tokenizers`` library knows of characters.

The library has several tables of several versions of Unicode: its own of normal forms, marks,
punctuation and scripts, Oniguruma's of properties in patterns, Rust's of words and lower case. So
each is read off the library, character by character; what it does not show (combining classes) is
``unicodedata``'s where the library agrees with it.

Run it with the version of the library that the runtime is to be equal to:
``python cpp_ext/unicode_tables.py``. tests/native/runtime/test_tokenizer.py holds each character to
the library. The module is long, since each table is read off in its own way.
"""

from __future__ import annotations

import struct
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["FILE", "make"]

FILE = Path(__file__).parent / "runtime" / "text" / "unicode_tables.inc"

POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CHARS = [chr(c) for c in POINTS]
CATEGORIES = (
    *("Cn", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps"),
    *("Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co"),
)
#: Scripts that patterns may name.
SCRIPTS = (
    *(
        "Arabic",
        "Armenian",
        "Bengali",
        "Bopomofo",
        "Cyrillic",
        "Devanagari",
        "Ethiopic",
        "Georgian",
    ),
    *(
        "Greek",
        "Gujarati",
        "Gurmukhi",
        "Han",
        "Hangul",
        "Hebrew",
        "Hiragana",
        "Kannada",
        "Katakana",
    ),
    *("Khmer", "Lao", "Latin", "Malayalam", "Mongolian", "Myanmar", "Sinhala", "Tamil", "Telugu"),
    *("Thai", "Tibetan"),
)
HANGUL = range(0xAC00, 0xD7A4)


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    data = bytearray()
    while number >= 0x80:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


def zigzag(number: int) -> bytes:
    return varint(number * 2 if number >= 0 else -number * 2 - 1)


def ranges(points: Iterable[int]) -> list[list[int]]:
    """Begin and end, the end left out; surrogates, which no text has, join what is around them."""
    result: list[list[int]] = []
    for point in sorted(points):
        if result and (result[-1][1] == point or (result[-1][1] == 0xD800 and point == 0xE000)):
            result[-1][1] = point + 1
        else:
            result.append([point, point + 1])
    return result


def pack_set(points: Iterable[int]) -> bytes:
    """By range, the gap before it and its length."""
    data, at = b"", 0
    for begin, end in ranges(points):
        data += varint(begin - at) + varint(end - begin)
        at = end
    return data


def pack_partition(kinds: dict[int, int]) -> bytes:
    """By run of one kind, the kind in 5 bits and how long in 3, of which 7 says: more follows."""
    data, at = b"", 0
    while at < 0x110000:
        if 0xD800 <= at < 0xE000:
            kinds[at] = kinds[0xD7FF]
        kind, begin = kinds.get(at, 0), at
        while at < 0x110000 and (kinds.get(at, 0) == kind or 0xD800 <= at < 0xE000):
            at += 1
        length = at - begin - 1
        data += bytes([kind | min(length, 7) << 5])
        if length >= 7:
            data += varint(length - 7)
    return data


def changed(change: Callable[[str], str], *, to: str = "") -> set[int]:
    return {point for point, char in zip(POINTS, CHARS, strict=True) if change(char) == to}


def onig(pattern: str) -> set[int]:
    """Characters that a pattern matches."""
    return changed(normalizers.Replace(Regex(pattern), "").normalize_str)


def splits(part: object) -> set[int]:
    """Characters that a pre-tokenizer takes from a letter."""
    split = part.pre_tokenize_str  # type: ignore[attr-defined]
    return {p for p, char in zip(POINTS, CHARS, strict=True) if len(split("a" + char)) > 1}


def bert(**options: bool) -> Callable[[str], str]:
    off = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False}
    done: Callable[[str], str] = normalizers.BertNormalizer(
        **{**off, "lowercase": False, **options}
    ).normalize_str
    return done


def rust_word() -> set[int]:
    """Letters of words, as Rust has them."""
    split = pre_tokenizers.Whitespace().pre_tokenize_str
    return {p for p, c in zip(POINTS, CHARS, strict=True) if len(split("a" + c)[0][0]) == 2}


def lower() -> bytes:
    """By run of letters a step apart that move equally far: gap, count, step, distance."""
    change = normalizers.Lowercase().normalize_str
    moves = {p: change(c) for p, c in zip(POINTS, CHARS, strict=True) if change(c) != c}
    assert moves.pop(0x130) == "i\u0307"  # the only one of two characters; the reader knows it
    pairs = [(point, ord(text) - point) for point, text in sorted(moves.items())]
    data, at, index = b"", 0, 0
    while index < len(pairs):
        begin, distance = pairs[index]
        step = 1
        if index + 1 < len(pairs) and pairs[index + 1] == (begin + 2, distance):
            step = 2
        count = 1
        while index + count < len(pairs) and pairs[index + count] == (
            begin + step * count, distance,
        ):  # fmt: skip
            count += 1
        data += varint(begin - at) + varint(count * 2 + step - 1) + zigzag(distance)
        at = begin + step * (count - 1) + 1
        index += count
    return data


def decompositions() -> tuple[bytes, bytes]:
    """What characters are made of; and those that NFC composes of two."""
    nfd, nfkd, nfc = (getattr(normalizers, f)().normalize_str for f in ("NFD", "NFKD", "NFC"))
    full: dict[int, str] = {}
    entries: list[tuple[int, int, str]] = []
    for point, char in zip(POINTS, CHARS, strict=True):
        if point in HANGUL:
            continue
        canonical, compatible = nfd(char), nfkd(char)
        if canonical != char:
            full[point] = canonical
            entries.append((point, 0, canonical))
        if compatible != canonical:
            entries.append((point, 1, compatible))
    composed = []
    for point, text in sorted(full.items()):
        if len(text) < 2 or nfc(text) != chr(point):
            continue
        # The reader finds the two by composing all but the last.
        first = nfc(text[:-1])
        assert len(first) == 1, hex(point)
        assert nfc(first + text[-1]) == chr(point)
        composed.append(point)
    return pack_decompositions(entries), pack_set(composed)


def pack_decompositions(entries: list[tuple[int, int, str]]) -> bytes:
    """By run of neighbors of one kind and length: gap, count, length and kind, then characters."""
    data, at, index = b"", 0, 0
    while index < len(entries):
        begin, kind, text = entries[index]
        run = [text]
        while index + len(run) < len(entries):
            point, next_kind, next_text = entries[index + len(run)]
            if (point, next_kind, len(next_text)) != (begin + len(run), kind, len(text)):
                break
            run.append(next_text)
        data += varint(begin - at) + varint(len(run)) + bytes([len(text) * 2 + kind])
        data += b"".join(varint(ord(c)) for text in run for c in text)
        at = begin + len(run) - 1
        index += len(run)
    return data


def combining_classes() -> bytes:
    """By range, gap, length and class; a class of 0 is not there."""
    nfd = normalizers.NFD().normalize_str

    def is_known(char: str, number: int) -> bool:
        # A lower class moves before a higher one: U+0345 has the highest, U+0334 the lowest.
        if number < 240:
            return nfd("a\u0345" + char) == "a" + nfd(char) + "\u0345"
        return nfd("a" + char + "\u0334") == "a\u0334" + nfd(char)

    numbers = {
        point: number
        for point, char in zip(POINTS, CHARS, strict=True)
        if (number := unicodedata.combining(char)) and is_known(char, number)
    }
    unknown = [
        hex(point)
        for point, char in zip(POINTS, CHARS, strict=True)
        if not unicodedata.combining(char) and nfd("a\u0345" + char) != "a\u0345" + nfd(char)
        and unicodedata.combining(nfd(char)[0]) == 0
    ]  # fmt: skip
    assert not unknown, unknown
    data, at = b"", 0
    for begin, end in ranges(numbers):
        start = begin
        while start < end:
            stop = start
            while stop < end and numbers[stop] == numbers[start]:
                stop += 1
            data += varint(start - at) + varint(stop - start) + bytes([numbers[start]])
            at = start = stop
    return data


def table(leads: Iterable[int]) -> bytes:
    """A table of SentencePiece by which what begins with one of these bytes becomes ``Q``."""
    units = [0] * 1024
    units[0] = 256 << 10
    for lead in leads:
        units[256 ^ lead] = lead | 1 << 8 | (256 ^ lead ^ 600) << 10
        units[600] = 1 << 31
    data = struct.pack("<1024I", *units)
    return struct.pack("<I", len(data)) + data + b"Q\0"


#: Classes of grapheme clusters, in the reader's order.
(OTHER, CONTROL, EXTEND, LINKER, JOINER, MARK, PREPEND, LEADING, VOWEL, TRAILING) = range(10)
(LEADING_VOWEL, LEADING_TRAILING, REGIONAL, PICTURE, CONSONANT) = range(10, 15)


def cluster_classes() -> bytes:
    """Which characters cling to others, as a table of SentencePiece shows it.

    A cluster of less than 6 bytes is looked up as a whole, and one that is longer by character.
    """
    ascii_only = normalizers.Precompiled(table([ord("a")])).normalize_str
    others = normalizers.Precompiled(table(range(0xC2, 0xF5))).normalize_str
    long = normalizers.Precompiled(table(range(0xE0, 0xF5))).normalize_str
    short = normalizers.Precompiled(table([0xC2])).normalize_str
    accent, zwj, ka, virama = "\u0301", "\u200d", "\u0915", "\u094d"

    def clings(before: str, char: str) -> bool:
        """Whether a character of 3 bytes belongs to what is before it."""
        return long(before + char + accent).endswith("Q" + accent)

    kinds: dict[int, int] = {}
    for point, char in zip(POINTS, CHARS, strict=True):
        category = unicodedata.category(char)
        if point in HANGUL:
            kinds[point] = LEADING_TRAILING if (point - 0xAC00) % 28 else LEADING_VOWEL
        elif point < 128:
            kinds[point] = CONTROL if category == "Cc" else OTHER
        elif ascii_only("a" + char) == "Q":
            is_linker = point != 0x200D and clings(ka + char, ka)
            is_mark = not is_linker and point != 0x200D and not is_extend(char, short)
            kinds[point] = LINKER if is_linker else MARK if is_mark else EXTEND
            if char == zwj:
                kinds[point] = JOINER
        elif others(char + "a") == "Q":
            kinds[point] = PREPEND
        elif point < 0x10000 and others(char + accent) != "Q":
            kinds[point] = CONTROL
        elif 0x1F1E6 <= point <= 0x1F1FF:
            kinds[point] = REGIONAL
        elif is_picture(char, short):
            kinds[point] = PICTURE
        elif clings(char + virama, ka):
            kinds[point] = CONSONANT
        elif clings(char, "\u11a8"):
            kinds[point] = VOWEL if clings(char, "\u1161") and clings("\u1161", char) else TRAILING
        elif clings(char, "\u1161"):
            kinds[point] = LEADING
    return pack_partition(kinds)


def is_extend(char: str, short: Callable[[str], str]) -> bool:
    """Whether a picture goes on behind it and a joiner."""
    return short("\u2764" + char + "\u200d\xa9\u0301").endswith("Q\u0301")


def is_picture(char: str, short: Callable[[str], str]) -> bool:
    return short(char + "\u200d\xa9\u0301").endswith("Q\u0301")


def scripts() -> bytes:
    """Scripts that UnicodeScripts splits at, by number; 0 goes with any."""
    split = pre_tokenizers.UnicodeScripts().pre_tokenize_str
    firsts: list[str] = []  # one character of each script
    kinds: dict[int, int] = {}
    last = 0
    for point, char in zip(POINTS, CHARS, strict=True):
        if len(split("a" + char)) == 1 and len(split("\u4e2d" + char)) == 1:
            continue
        if not last or len(split(firsts[last - 1] + char)) > 1:
            numbers = [i for i, first in enumerate(firsts) if len(split(first + char)) == 1]
            if not numbers:
                firsts.append(char)
                numbers = [len(firsts) - 1]
            last = numbers[0] + 1
        kinds[point] = last
    data, at = b"", 0
    for begin, end in ranges(kinds):
        start = begin
        while start < end:
            stop = start
            while stop < end and (0xD800 <= stop < 0xE000 or kinds[stop] == kinds[start]):
                stop += 1
            data += varint(start - at) + varint(stop - start) + bytes([kinds[start]])
            at = start = stop
    return data


def make() -> str:
    """The file's text."""
    categories = {name: onig(rf"\p{{{name}}}") for name in CATEGORIES[1:]}
    kinds = {p: CATEGORIES.index(name) for name, points in categories.items() for p in points}

    def of(*names: str) -> set[int]:
        return set().union(*(p for name, p in categories.items() if name.startswith(names)))

    word = onig(r"\w")
    decomposed, composed = decompositions()
    punctuation = splits(pre_tokenizers.Punctuation())
    tables = {
        "Categories": pack_partition(kinds),
        "Word": pack_set(word),
        # What a set has that the one it resembles has not, and the other way round.
        "Alphabetic": pack_set(onig(r"\p{Alpha}") ^ word),
        "Lowercase": pack_set(onig(r"\p{Lower}") ^ of("Ll")),
        "Uppercase": pack_set(onig(r"\p{Upper}") ^ of("Lu")),
        "RustWord": pack_set(rust_word() ^ word),
        "Numeric": pack_set(splits(pre_tokenizers.Digits()) ^ of("N")),
        "Punctuation": pack_set(punctuation ^ of("P")),
        "Marks": pack_set(changed(normalizers.StripAccents().normalize_str) ^ of("M")),
        "Nonspacing": pack_set(nonspacing() ^ of("Mn")),
        "Unprintable": pack_set(changed(bert(clean_text=True)) ^ of("Cc", "Cf", "Co")),
        "Lower": lower(),
        "Decompositions": decomposed,
        "Composed": composed,
        "CombiningClasses": combining_classes(),
        "ClusterClasses": cluster_classes(),
        "ScriptNumbers": scripts(),
        **{f"{name}Script": pack_set(onig(rf"\p{{{name}}}")) for name in SCRIPTS},
    }
    size = sum(map(len, tables.values()))
    lines = [
        "// Characters as the tokenizers library knows them; written by cpp_ext/unicode_tables.py.",
        "//",
        f"// Library: tokenizers {tokenizers.__version__}. Combining classes, as far as",
        f"// the library has them: Unicode {unicodedata.unidata_version}.",
        f"// {size} bytes in all. Do not edit.",
    ]
    for name, data in tables.items():
        lines.append(f"constexpr uint8_t k{name}[] = {{")
        line = "   "
        for byte in data:
            if len(line) + len(f" {byte},") > 100:
                lines.append(line)
                line = "   "
            line += f" {byte},"
        lines += [line, "};"]
    return "\n".join(lines) + "\n"


def nonspacing() -> set[int]:
    """What BertNormalizer takes for an accent, by its own table: it decomposes first."""
    strip, nfd = bert(strip_accents=True), normalizers.NFD().normalize_str
    return {
        point for point, char in zip(POINTS, CHARS, strict=True)
        if nfd(char) == char and strip(char) == ""
    }  # fmt: skip


def main() -> None:
    """Write the file."""
    FILE.write_text(make(), encoding="ascii")


if __name__ == "__main__":
    main()
