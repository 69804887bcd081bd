"""How a server was asked to run; checked before anything is loaded."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from steersman.core.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for all requests.

    Attributes:
        api_keys: one of these lets a request in; without any, everybody is let in.
        admin_keys: one of these may load and unload policies; without any, nobody may.
        default_policy: steers requests that have no field `steering`.
        max_batch: answers that are made together at most.
        max_queue: answers that may wait at most.
        max_body: bytes of a request.
        max_image_pixels: of all images of a request together.
        max_prompt_tokens: of one prompt; None leaves it to the model.
        max_new_tokens: of one answer.
        timeout: seconds that a request may take, waiting included.
        grace: seconds in which running answers may end when the server is told to.
        image_hosts: where images are fetched from; none fetches nothing.
        log_prompts: write prompts and answers into the log.

    Raises:
        RecipeError: a number is out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    admin_keys: tuple[str, ...] = ()
    default_policy: str | None = None
    max_batch: int = 32
    max_queue: int = 256
    max_body: int = 20_000_000
    max_image_pixels: int = 8_000_000
    max_prompt_tokens: int | None = None
    max_new_tokens: int = 1024
    timeout: float = 300.0
    grace: float = 30.0
    image_hosts: tuple[str, ...] = ()
    log_prompts: bool = False

    def __post_init__(self) -> None:
        counts = ("max_batch", "max_queue", "max_body", "max_image_pixels", "max_new_tokens")
        for name in counts:
            if getattr(self, name) < 1:
                raise RecipeError(f"{_flag(name)} is {getattr(self, name)}; it must be 1 or more.")
        if self.max_prompt_tokens is not None and self.max_prompt_tokens < 1:
            raise RecipeError(
                f"--max-prompt-tokens is {self.max_prompt_tokens}; it must be 1 or more."
            )
        for name in ("timeout", "grace"):
            if not 0 < getattr(self, name) < float("inf"):
                raise RecipeError(f"{_flag(name)} is {getattr(self, name)}; give seconds above 0.")
        if not 0 <= self.port < 65536:
            raise RecipeError(f"--port is {self.port}; give one below 65536, or 0 for a free one.")
        if any(not key or not key.isascii() or key != key.strip() for key in self._keys):
            raise RecipeError(
                "A key is empty, begins or ends with a space, or is not in ASCII, and could not be "
                "sent in a header. Give another one."
            )
        for host in self.image_hosts:
            if not host or "/" in host or ":" in host or host == "*":
                raise RecipeError(
                    f"--allow-image-hosts is {host!r}; give the name of a host (images.example.org)"
                    " or a domain (*.example.org)."
                )

    @property
    def _keys(self) -> tuple[str, ...]:
        return (*self.api_keys, *self.admin_keys)

    @property
    def is_open(self) -> bool:
        """Whether others than this machine are let in without a key."""
        try:
            local = self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            local = False
        return not local and not self.api_keys


def served_name(source: str) -> str:
    """What clients call the model: of a folder its own name, since paths are nobody's business."""
    path = Path(source).expanduser()
    return path.resolve().name if path.is_dir() else source


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
