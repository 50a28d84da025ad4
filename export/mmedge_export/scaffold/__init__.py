"""``mmedge init``: a factory's text from a network, with what is to be filled in marked."""

from mmedge_export.scaffold.text import Draft, DraftInput, write_draft

__all__ = ["Draft", "DraftInput", "write_draft"]
