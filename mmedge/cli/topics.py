"""Options that say which topic of a ROS 2 bag is which modality."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmedge.recording.ros import Topic, read_parameter_file

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ParametersOption", "TopicOption", "bag_topics"]

TopicOption = Annotated[
    list[str] | None,
    typer.Option(
        "--topic",
        help="Of a ROS 2 bag: modality=/topic. Repeatable; with --ros-parameters in place of its "
        "topic.",
        metavar="MODALITY=/TOPIC",
    ),
]
ParametersOption = Annotated[
    Path | None,
    typer.Option(
        "--ros-parameters",
        help="Of a ROS 2 bag: the parameter file (YAML) of a mmedge node, with its topics.",
    ),
]


def bag_topics(words: Sequence[str] | None, parameters: Path | None) -> dict[str, Topic]:
    """Topics by modality; none where neither option is given.

    Raises:
        BadParameter: a word that is no ``modality=/topic``, or one modality twice.
        InputError: the file cannot be read, or a name is none of a topic.
    """
    topics = {} if parameters is None else read_parameter_file(parameters)
    modalities: set[str] = set()
    for word in words or ():
        modality, _, name = word.partition("=")
        if not modality or not name or modality in modalities:
            raise typer.BadParameter(
                f"expected modality=/topic, each modality once; got {word!r}", param_hint="--topic"
            )
        modalities.add(modality)
        topics[modality] = (
            replace(topics[modality], topic=name) if modality in topics else Topic(topic=name)
        )
    return topics
