"""Tokens to text as they are made: pieces that never have to be taken back."""

from collections.abc import Callable, Sequence

Decode = Callable[[list[int]], str]
UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what the beginning of a character decodes to


class _Beginning:
    """How much of a stop a text ends with, one look at each character (Knuth, Morris, Pratt)."""

    def __init__(self, stop: str) -> None:
        self._stop, self.length = stop, 0
        self._shorter = [0, 0]  # by length: the longest beginning that such a beginning ends with
        for char in stop[1:]:
            self._shorter.append(self._longer(self._shorter[-1], char))

    def push(self, new: str) -> None:
        """More of the text, which does not have the whole stop."""
        for char in new:
            self.length = self._longer(self.length, char)

    def _longer(self, length: int, char: str) -> int:
        while length and self._stop[length] != char:
            length = self._shorter[length]
        return length + (self._stop[length] == char)


class Text:
    """The text of one answer, cut in front of the first stop.

    Pieces together are exactly `whole`, however the tokens fall: the beginning of a character, of a
    stop, and white space that may turn out to be the end are held back.

    Args:
        decode: ids to text, special tokens left out.
        stops: strings that end the answer, and do not belong to it.
        strip: leave out white space around the answer, as `Completion.text` does.
    """

    def __init__(self, decode: Decode, stops: Sequence[str] = (), *, strip: bool = True) -> None:
        self._decode, self._stops, self._strip = decode, stops, strip
        self._beginnings = [_Beginning(stop) for stop in stops]
        self._ids: list[int] = []
        self._settled = self._told = 0  # ids that are part of the text; of these, that are context
        self._text = ""
        self._given = 0
        self.stopped = False

    @property
    def whole(self) -> str:
        """All of it so far."""
        return self._text.strip() if self._strip else self._text

    def push(self, token: int) -> str:
        """What can be told now that this token was made."""
        if self.stopped:
            return ""
        self._ids.append(token)
        before = self._decode(self._ids[self._told : self._settled])
        now = self._decode(self._ids[self._told :])
        if len(now) > len(before) and not now.endswith(UNFINISHED):
            self._told, self._settled = self._settled, len(self._ids)
            self._append(now[len(before) :])
        return self._piece(self._held())

    def end(self) -> str:
        """The rest, when no more tokens come."""
        if not self.stopped:
            before = self._decode(self._ids[self._told : self._settled])
            self._append(self._decode(self._ids[self._told :])[len(before) :])
            self._told = self._settled = len(self._ids)
        return self._piece(0)

    def _append(self, new: str) -> None:
        start = max(0, len(self._text) - max((len(s) for s in self._stops), default=0))
        self._text += new
        ends = [at for stop in self._stops if (at := self._text.find(stop, start)) >= 0]
        if ends:
            self._text, self.stopped = self._text[: min(ends)], True
            return
        for beginning in self._beginnings:
            beginning.push(new)

    def _held(self) -> int:
        """How many characters at the end may still be the beginning of a stop."""
        if self.stopped:
            return 0
        return max((beginning.length for beginning in self._beginnings), default=0)

    def _piece(self, held: int) -> str:
        ready = self._text[: len(self._text) - held]
        if self._strip:
            ready = ready.strip()
        piece = ready[self._given :]
        self._given = max(self._given, len(ready))
        return piece
