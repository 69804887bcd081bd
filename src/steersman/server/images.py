"""Images in requests: from the request itself, or from hosts that the server was told to trust."""

import asyncio
import base64
import binascii
import ipaddress
import re
import socket
import warnings
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from io import BytesIO
from urllib.parse import urljoin

import httpx
from PIL import Image

from steersman.core.errors import nearest
from steersman.data.images import FORMATS, open_image
from steersman.server.errors import ApiError, refused

MAX_IMAGES = 16
REDIRECTS = 3
FETCH_SECONDS = 10.0
DATA = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,", re.IGNORECASE)
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


async def addresses(host: str, port: int) -> list[str]:
    """The addresses of a host."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


@dataclass(frozen=True)
class ImageRules:
    """What images a request may bring.

    Attributes:
        max_pixels: of all images of a request together.
        max_bytes: of one image that is fetched.
        hosts: from which images are fetched; none fetches nothing.
        resolve: tells the addresses of a host.
        transport: what fetches; None is the network.
    """

    max_pixels: int
    max_bytes: int
    hosts: Collection[str] = ()
    resolve: Resolve = addresses
    transport: httpx.AsyncBaseTransport | None = None

    async def read(self, url: str, param: str) -> bytes:
        """The file of an image.

        Raises:
            ApiError: it is not there, too large, or somewhere that nothing is fetched from.
        """
        if url[:5].lower() == "data:":
            return in_data(url, param)
        if url[:7].lower() != "http://" and url[:8].lower() != "https://":
            raise refused(
                "An image must be a data: URL with base64, or an https:// URL where the server "
                "allows it.",
                code="invalid_image_url",
                param=param,
            )
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                return await self._fetch(url, param)
        except (TimeoutError, httpx.HTTPError, OSError, ValueError) as error:
            raise refused(
                f"The image could not be fetched ({type(error).__name__}). Send it as a data: URL.",
                code="image_not_fetched",
                param=param,
            ) from error

    async def _fetch(self, url: str, param: str) -> bytes:
        """Follows redirects by hand: each is checked as if it had been asked for."""
        async with httpx.AsyncClient(
            transport=self.transport, trust_env=False, follow_redirects=False
        ) as client:
            for _ in range(REDIRECTS + 1):
                target = await self._checked(url, param)
                async with client.stream(
                    "GET", target.url, headers={"Host": target.host}, extensions=target.extensions
                ) as response:
                    if response.has_redirect_location:
                        url = urljoin(url, response.headers["location"])
                        continue
                    if response.status_code != 200:
                        raise refused(
                            f"The image could not be fetched: its host answered "
                            f"{response.status_code}. Send it as a data: URL.",
                            code="image_not_fetched",
                            param=param,
                        )
                    return await self._bounded(response, param)
        raise refused(
            f"The image was redirected more than {REDIRECTS} times. Send it as a data: URL.",
            code="image_not_fetched",
            param=param,
        )

    async def _bounded(self, response: httpx.Response, param: str) -> bytes:
        got = bytearray()
        async for piece in response.aiter_bytes():
            got += piece
            if len(got) > self.max_bytes:
                raise refused(
                    f"An image has more than {self.max_bytes:,} bytes. Scale it down.",
                    code="image_too_large",
                    param=param,
                )
        return bytes(got)

    async def _checked(self, url: str, param: str) -> "Target":
        """Where to fetch from: an address that was checked, so that no name can change under us."""
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise refused(
                "The URL of an image is none. Send the image as a data: URL.",
                code="invalid_image_url",
                param=param,
            ) from error
        host, usual = parsed.host, {"http": 80, "https": 443}.get(parsed.scheme)
        fine = usual is not None and parsed.port in (None, usual) and allowed(host, self.hosts)
        if usual is None or not fine:
            known = nearest(host[:80], self.hosts) if self.hosts else ""
            raise refused(
                f"This server fetches no images from {host[:80]!r}. Send the image as a data: URL."
                f"{known}",
                code="image_host_not_allowed",
                param=param,
            )
        found = await self.resolve(host, usual)
        if not found or not all(is_public(address) for address in found):
            raise refused(
                f"{host!r} is not on the public internet, and nothing is fetched from there.",
                code="image_host_not_allowed",
                param=param,
            )
        return Target(parsed.copy_with(host=found[0]), parsed.netloc.decode(), host)


@dataclass(frozen=True)
class Target:
    """A URL whose host is an address, and the name that stood for it."""

    url: httpx.URL
    host: str
    name: str

    @property
    def extensions(self) -> dict[str, str]:
        """Makes the certificate be checked against the name."""
        return {"sni_hostname": self.name}


def allowed(host: str, hosts: Collection[str]) -> bool:
    """Whether images may come from there: the host itself is listed, or "*." and its domain."""
    host = host.lower().rstrip(".")
    return any(
        host.endswith(entry[1:].lower()) if entry.startswith("*.") else host == entry.lower()
        for entry in hosts
    )


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet, also behind an IPv6 prefix."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if inner:
            return is_public(str(inner))
        if ip in ipaddress.ip_network("64:ff9b::/96"):
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip.is_global and not ip.is_multicast


def in_data(url: str, param: str) -> bytes:
    """The file in a data: URL.

    Raises:
        ApiError: it is not one of an image, or not in base64.
    """
    head = DATA.match(url[:80])
    if head is None:
        raise refused(
            "The data: URL of an image must begin like data:image/png;base64, .",
            code="invalid_image_url",
            param=param,
        )
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise refused(
            "The base64 of an image cannot be decoded.", code="invalid_image", param=param
        ) from error


def decoded(files: Sequence[tuple[bytes, str]], max_pixels: int) -> list[Image.Image]:
    """Files and the params they came in, as images; sizes are looked at before anything unpacks.

    Raises:
        ApiError: one is no image, or all together have too many pixels.
    """
    found: list[Image.Image] = []
    left = max_pixels
    for file, param in files:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(BytesIO(file), formats=FORMATS) as head:
                    left -= head.width * head.height
            if left < 0:
                raise Image.DecompressionBombError
            found.append(open_image(BytesIO(file)))
        except Image.DecompressionBombError:
            raise too_large(max_pixels, param) from None
        except Exception as error:  # decoders fail on files made for it in any way they like
            raise refused(
                f"An image cannot be decoded: it is truncated or not one of {', '.join(FORMATS)}.",
                code="invalid_image",
                param=param,
            ) from error
    return found


def too_large(max_pixels: int, param: str) -> ApiError:
    """Refuses images with too many pixels."""
    return refused(
        f"The images of a request may have {max_pixels:,} pixels together, and these have more. "
        "Scale them down.",
        code="image_too_large",
        param=param,
    )
