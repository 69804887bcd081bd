"""From the messages of a chat to a prompt. What a prompt cannot hold is refused."""

from collections.abc import Sequence
from typing import Literal

from PIL import Image

from steersman.core.types import Prompt, Turn
from steersman.server.errors import refused
from steersman.server.schema import ImagePart, Message, TextPart

SYSTEM = ("system", "developer")


def image_urls(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """URLs of the images, each with the param that it came in.

    Raises:
        ApiError: one is not in the last message.
    """
    found: list[tuple[str, str]] = []
    for i, message in enumerate(messages):
        for j, part in enumerate(message.content if isinstance(message.content, list) else ()):
            if not isinstance(part, ImagePart):
                continue
            param = f"messages[{i}].content[{j}].image_url"
            if i != len(messages) - 1:
                raise refused(
                    "An image may be in the last message only. Leave it out of earlier messages, "
                    "or show it again with the question.",
                    code="unsupported_value",
                    param=param,
                )
            found.append((part.image_url.url, param))
    return found


def to_prompt(messages: Sequence[Message], images: Sequence[Image.Image]) -> Prompt:
    """The last message is asked, by the user; those before it are the talk so far.

    Messages of the system (or the developer) at the beginning are one system prompt. Images come
    before the text of their message, where policies were fitted on them.

    Raises:
        ApiError: the talk ends with somebody else, or the system speaks in the middle of it.
    """
    talk = [*messages]
    system: list[str] = []
    while talk and talk[0].role in SYSTEM:
        system.append(said(talk.pop(0)))
    offset = len(messages) - len(talk)
    if not talk or talk[-1].role != "user":
        raise refused(
            "The last message must be the user's; answers are not continued.",
            code="unsupported_value",
            param="messages",
        )
    history: list[Turn] = []
    for i, message in enumerate(talk[:-1]):
        if message.role in SYSTEM:
            raise refused(
                "A message of the system may only be at the beginning. Move it there.",
                code="unsupported_value",
                param=f"messages[{offset + i}].role",
            )
        role: Literal["user", "assistant"] = "user" if message.role == "user" else "assistant"
        history.append(Turn(role, said(message)))
    return Prompt(
        said(talk[-1]), tuple(images), "\n\n".join(system) or None, history=tuple(history)
    )


def said(message: Message) -> str:
    """The text of a message, its parts on lines of their own."""
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part.text for part in message.content if isinstance(part, TextPart))
