"""Pieces of an answer are the answer, however its tokens fall."""

from hypothesis import given
from hypothesis import strategies as st

from served import HARM, model
from steersman.server.text import Text


def decode(ids: list[int]) -> str:
    """Tokens are bytes: characters may be cut, as byte-level tokenizers do."""
    return bytes(ids).decode("utf-8", "replace")


def told(text: str, stops=(), *, strip=True) -> tuple[list[str], Text]:
    made = Text(decode, stops, strip=strip)
    return [*(made.push(byte) for byte in text.encode()), made.end()], made


TEXTS = st.text("ab \né😀", max_size=30)


@given(TEXTS, st.booleans())
def test_pieces_are_the_whole(text, strip):
    pieces, made = told(text, strip=strip)
    assert "".join(pieces) == made.whole == (text.strip() if strip else text)


@given(TEXTS, st.lists(st.text("ab é", min_size=1, max_size=3), max_size=3), st.booleans())
def test_no_piece_has_what_belongs_to_a_stop(text, stops, strip):
    pieces, made = told(text, stops, strip=strip)
    ends = {stop: text.find(stop) + len(stop) for stop in stops if stop in text}
    if ends:  # the stop that is whole first ends it; of two, the one that began first
        first = min(ends.values())
        cut = min(text.find(stop) for stop, end in ends.items() if end == first)
    else:
        cut = len(text)
    whole = text[:cut]
    assert "".join(pieces) == made.whole == (whole.strip() if strip else whole)
    assert made.stopped == bool(ends)


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=2, max_size=9), min_size=1))
def test_only_what_may_begin_a_stop_is_held_back(text, stops):
    made, told = Text(decode, stops, strip=False), ""
    for end, byte in enumerate(text.encode(), 1):
        told += made.push(byte)
        if made.stopped:
            return
        ends = (text[begin:end] for begin in range(end))
        held = next((e for e in ends if any(stop.startswith(e) for stop in stops)), "")
        assert told + held == text[:end]


def test_half_a_character_is_not_told():
    pieces, _ = told("aé")
    assert pieces == ["a", "", "é", ""]


def test_bytes_that_are_no_character_are_told_at_the_end():
    made = Text(decode)
    assert [made.push(0x61), made.push(0xC3), made.end()] == ["a", "", "\ufffd"]


def test_nothing_is_told_behind_a_stop():
    pieces, made = told("ab cd", ["b"])
    assert pieces == ["a", *[""] * 5] and made.stopped


def test_words_of_the_bundled_tokenizer_have_their_blanks():
    tokenizer = model().chat.tokenizer
    ids = tokenizer(HARM)["input_ids"]
    made = Text(lambda some: tokenizer.decode(some, skip_special_tokens=True))
    assert "".join([*map(made.push, [*ids, tokenizer.eos_token_id]), made.end()]) == HARM
