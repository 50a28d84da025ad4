"""What a tokenizer file of a bundle may hold: components by name, patterns by form, limits.

The file is read by the ``tokenizers`` library, which trusts it: a component may multiply the text,
a pattern may take hours, a merge may be left out at random. So the file is checked here first, by
:func:`check_tokenizer`; what is not listed is refused. docs/reference/bundle.md states the same
rules.
"""

from __future__ import annotations

import binascii
import struct
from typing import TYPE_CHECKING

from mmedge.errors import BundleError
from mmedge.schema.patterns import check_pattern
from mmedge.schema.read import Misfit, decode, members, show

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["MAX_TEXT_CHARACTERS", "MAX_TOKENIZER_BYTES", "check_tokenizer"]

#: Bytes of a tokenizer's file: several times the largest vocabulary in use (256,000 pieces).
MAX_TOKENIZER_BYTES = 128 << 20
#: Characters of one text, as it is given and after normalization.
MAX_TEXT_CHARACTERS = 8_192
#: Most tokens that a tokenizer may pad a text to.
MAX_PADDED_TOKENS = 1 << 16
#: Components of one kind, with those inside sequences.
MAX_COMPONENTS = 32
#: How much longer all normalizers together may make a text.
MAX_GROWTH = 1024
#: Alternatives, over all patterns of a file, that may have to try again from many places.
MAX_RETRYING = 4
#: Characters of a word that WordPiece looks up piece by piece (its own default is 100).
MAX_WORD_CHARACTERS = 512
#: Parts of a template around the text, and special tokens in it.
MAX_TEMPLATE = 64

#: One character of Unicode becomes at most 18 by NFKC and NFKD (U+FDFA), 4 by NFC and NFD.
_NORMALIZERS = {
    "BertNormalizer": 4,
    "ByteLevel": 4,
    "Lowercase": 3,
    "NFC": 3,
    "NFD": 4,
    "NFKC": 18,
    "NFKD": 18,
    "Nmt": 1,
    "Precompiled": 0,  # by its table
    "Prepend": 1,
    "Replace": 0,  # by its content
    "Sequence": 1,
    "Strip": 1,
    "StripAccents": 1,
}
_COMPONENTS: Mapping[str, frozenset[str]] = {
    "normalizer": frozenset(_NORMALIZERS),
    "pre_tokenizer": frozenset(
        {
            *("BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "FixedLength"),
            *("Metaspace", "Punctuation", "Sequence", "Split", "UnicodeScripts", "Whitespace"),
            "WhitespaceSplit",
        }
    ),
    "post_processor": frozenset(
        {"BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing"}
    ),
    "decoder": frozenset(
        {
            *("BPEDecoder", "ByteFallback", "ByteLevel", "CTC", "Fuse", "Metaspace", "Replace"),
            *("Sequence", "Strip", "WordPiece"),
        }
    ),
}
#: The member that holds the parts of a ``Sequence``.
_PARTS = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}
_MODELS = frozenset({"BPE", "Unigram", "WordLevel", "WordPiece"})
_FIELDS = frozenset({"version", "truncation", "padding", "added_tokens", "model", *_COMPONENTS})


def check_tokenizer(data: bytes, source: str) -> None:
    """Refuse a tokenizer's file with anything that is not on the list.

    Args:
        data: the file.
        source: what to call it in messages.

    Raises:
        BundleError: which component, where, and what is allowed in its place.
    """
    try:
        tree = members(decode(data, most=MAX_TOKENIZER_BYTES), "$")
        for field in tree:
            if field not in _FIELDS:
                raise Misfit("$", f"the fields {', '.join(sorted(_FIELDS))}", show(field))
        growth, retrying = 1, 0
        for kind in _COMPONENTS:
            parts = list(_parts(tree.get(kind), kind, f"$.{kind}"))
            if len(parts) > MAX_COMPONENTS:
                raise Misfit(f"$.{kind}", f"at most {MAX_COMPONENTS} components", str(len(parts)))
            longer = 1  # than the text, whose length counts anew once it is normalized
            for where, part in parts:
                # Time goes with the square of the length.
                retrying += _pattern(part, where) * longer**2
                if kind in ("normalizer", "pre_tokenizer"):
                    longer *= _growth(part, where)
                if part["type"] == "TemplateProcessing":
                    _check_template(part, where)
            growth = max(growth, longer)
        if growth > MAX_GROWTH:
            raise Misfit("$", f"a text at most {MAX_GROWTH} times as long", f"{growth} times")
        if retrying > MAX_RETRYING:
            raise Misfit(
                "$",
                f"at most {MAX_RETRYING} alternatives of patterns that can fail after a repetition",
                str(retrying),
            )
        _check_model(members(tree.get("model"), "$.model"))
        _check_lengths(tree)
    except Misfit as error:
        raise BundleError(
            f"{source}: this tokenizer is not allowed in a bundle: {error}. "
            "docs/reference/bundle.md lists what is; tokenize in your own code and pass token ids, "
            "or save another tokenizer"
        ) from error


def _parts(value: object, kind: str, where: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Each component of one kind with its place, those inside sequences too."""
    if value is None:
        return
    part = members(value, where)
    name = part.get("type")
    if not isinstance(name, str) or name not in _COMPONENTS[kind]:
        type_names = ", ".join(sorted(_COMPONENTS[kind]))
        raise Misfit(f"{where}.type", f"one of {type_names}", show(name))
    yield where, part
    if name == "Sequence":
        sequence = part.get(_PARTS[kind])
        if not isinstance(sequence, list) or len(sequence) > MAX_COMPONENTS:
            raise Misfit(
                f"{where}.{_PARTS[kind]}", f"a list of up to {MAX_COMPONENTS}", show(sequence)
            )
        if where.count("[") > 2:
            raise Misfit(where, "sequences at most 3 deep", "a deeper one")
        for index, component in enumerate(sequence):
            yield from _parts(component, kind, f"{where}.{_PARTS[kind]}[{index}]")


def _pattern(part: Mapping[str, object], where: str) -> int:
    """Check the component's pattern; how many of its alternatives may retry."""
    if "pattern" not in part:
        return 0
    pattern = part["pattern"]
    text, regex = _text_of(pattern, f"{where}.pattern")
    if not text:
        raise Misfit(f"{where}.pattern", "a pattern that is not empty", "an empty one")
    return check_pattern(text, f"{where}.pattern") if regex else 0


def _text_of(pattern: object, where: str) -> tuple[str, bool]:
    """The text of a pattern, and whether it is a regular expression."""
    if isinstance(pattern, str):
        return pattern, False
    entries = members(pattern, where)
    if len(entries) == 1:
        ((kind, text),) = entries.items()
        if kind in ("String", "Regex") and isinstance(text, str):
            return text, kind == "Regex"
    raise Misfit(where, "a String or a Regex", show(pattern))


def _growth(part: Mapping[str, object], where: str) -> int:
    """How many times as long a text may become."""
    name = str(part["type"])
    if name == "Precompiled":
        return _longest_replacement(part.get("precompiled_charsmap"), where)
    if name == "Prepend":
        text = part.get("prepend")
        if not isinstance(text, str) or len(text) > MAX_TEMPLATE:
            raise Misfit(f"{where}.prepend", f"at most {MAX_TEMPLATE} characters", show(text))
        return 1
    if name != "Replace":
        return max(1, _NORMALIZERS.get(name, 1))
    content = part.get("content")
    if not isinstance(content, str):
        raise Misfit(f"{where}.content", "a string", show(content))
    text, regex = _text_of(part.get("pattern"), f"{where}.pattern")
    # A regular expression may match a single character, or stand between any two.
    least = 1 if regex else len(text)
    return max(1, -(-len(content) // least) + (1 if regex and len(content) > 1 else 0))


def _longest_replacement(value: object, where: str) -> int:
    """Characters of the longest entry of a SentencePiece table of replacements."""
    where = f"{where}.precompiled_charsmap"
    if not isinstance(value, str):
        raise Misfit(where, "a table in base64", show(value))
    try:
        table = binascii.a2b_base64(value, strict_mode=True)
        (size,) = struct.unpack_from("<I", table)
    except (binascii.Error, ValueError, struct.error) as error:
        raise Misfit(where, "a table in base64", f"what is none ({error})") from error
    if size % 4 or not 4 <= size <= len(table) - 4:
        raise Misfit(where, "a table and its texts", f"a table of {size} bytes")
    longest = max(map(len, table[4 + size :].split(b"\0")))
    return max(1, longest)


def _check_template(part: Mapping[str, object], where: str) -> None:
    single, special = part.get("single"), part.get("special_tokens")
    if not isinstance(single, list) or len(single) > MAX_TEMPLATE:
        raise Misfit(f"{where}.single", f"a list of up to {MAX_TEMPLATE} parts", show(single))
    texts = [piece for piece in single if isinstance(piece, dict) and "Sequence" in piece]
    sequences = [members(piece["Sequence"], f"{where}.single").get("id") for piece in texts]
    if sequences != ["A"]:
        raise Misfit(f"{where}.single", "the text 'A' once", show(str(sequences)))
    at = f"{where}.special_tokens"
    for name, token in members({} if special is None else special, at).items():
        ids = members(token, at).get("ids")
        if not isinstance(ids, list) or len(ids) > MAX_TEMPLATE:
            raise Misfit(
                f"{at}[{show(name)}].ids",
                f"a list of up to {MAX_TEMPLATE}",
                show(ids),
            )


def _check_model(model: Mapping[str, object]) -> None:
    name = model.get("type")
    # Files of old versions of the library do not name the type; the limits below hold for each.
    if name is not None and (not isinstance(name, str) or name not in _MODELS):
        raise Misfit("$.model.type", f"one of {', '.join(sorted(_MODELS))}", show(name))
    if model.get("dropout"):
        raise Misfit(
            "$.model.dropout",
            "null, since a text must give the same tokens each time",
            show(model["dropout"]),
        )
    most = model.get("max_input_chars_per_word", 100)
    if type(most) is not int or not 0 < most <= MAX_WORD_CHARACTERS:
        raise Misfit("$.model.max_input_chars_per_word", f"1 to {MAX_WORD_CHARACTERS}", show(most))


def _check_lengths(tree: Mapping[str, object]) -> None:
    """Limits of padding and truncation, which the runtime applies."""
    if tree.get("padding") is not None:
        padding = members(tree["padding"], "$.padding")
        strategy = padding.get("strategy")
        fixed_length = strategy.get("Fixed") if isinstance(strategy, dict) else 0
        for field, size, limit in (
            ("strategy", fixed_length, MAX_PADDED_TOKENS),
            ("pad_to_multiple_of", padding.get("pad_to_multiple_of") or 0, MAX_PADDED_TOKENS),
            ("pad_id", padding.get("pad_id", 0), (1 << 31) - 1),
        ):
            if type(size) is not int or not 0 <= size <= limit:
                raise Misfit(f"$.padding.{field}", f"0 to {limit}", show(size))
    if tree.get("truncation") is not None:
        truncation = members(tree["truncation"], "$.truncation")
        most, stride = truncation.get("max_length"), truncation.get("stride", 0)
        if type(most) is not int or type(stride) is not int or not 0 <= stride < most:
            raise Misfit(
                "$.truncation",
                "a max_length of at least 1 and a stride below it",
                f"{show(most)} and {show(stride)}",
            )
        if truncation.get("strategy") == "OnlySecond":
            raise Misfit("$.truncation.strategy", "LongestFirst or OnlyFirst", "OnlySecond")
