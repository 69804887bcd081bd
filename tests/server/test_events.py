import json

from hypothesis import given
from hypothesis import strategies as st

from steersman.server.events import Events, data_of, object_of, packed, with_object

ENDS = st.sampled_from(["\n", "\r\n", "\r"])
LINES = st.sampled_from(["data: a", "data:b", ": comment", "event: x", "data", 'data: {"a": "é"}'])


@st.composite
def streams(draw):
    """Events with any line ends, and the cuts at which they arrive."""
    events = [
        "".join(draw(LINES) + draw(ENDS) for _ in range(draw(st.integers(1, 3)))) + draw(ENDS)
        for _ in range(draw(st.integers(0, 5)))
    ]
    raw = "".join(events).encode()
    cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    return raw, [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


@given(streams())
def test_no_byte_is_lost_or_changed_wherever_the_stream_is_cut(drawn):
    raw, pieces = drawn
    events = Events()
    got = [event for piece in pieces for event in events.feed(piece)]
    assert b"".join(got) + events.rest() == raw
    assert events.rest() == b""


@given(streams())
def test_events_are_the_same_wherever_the_stream_is_cut(drawn):
    raw, pieces = drawn
    whole, cut = Events(), Events()
    expected = [*whole.feed(raw), whole.rest()]
    assert [*(e for piece in pieces for e in cut.feed(piece)), cut.rest()] == expected


def test_an_event_is_given_as_soon_as_it_is_whole():
    events = Events()
    assert events.feed(b"data: 1\n") == []
    assert events.feed(b"\ndata: 2\n\nda") == [b"data: 1\n\n", b"data: 2\n\n"]
    assert events.feed(b"ta: 3\r\n\r") == []
    assert events.feed(b"\n") == [b"data: 3\r\n\r\n"]


def test_data_is_what_the_data_lines_say():
    assert data_of(b": keep-alive\n\n") is None
    assert data_of(b"event: x\r\ndata: a\r\ndata:b\r\n\r\n") == "a\nb"
    assert data_of(b"data: \xff\n\n") is None
    assert object_of(b"data: [DONE]\n\n") is None
    assert object_of(b"data: [1]\n\n") is None
    assert object_of('data: {"a": "é"}\n\n'.encode()) == {"a": "é"}


def test_other_fields_of_an_event_are_kept():
    made = with_object(b": c\nid: 7\ndata: {}\n\n", {"a": 1})
    assert made == b': c\nid: 7\ndata: {"a":1}\n\n'


@given(st.recursive(st.text(st.characters()), lambda s: st.lists(s)))
def test_any_text_can_be_packed_half_pairs_too(value):
    assert json.loads(packed(value)) == json.loads(json.dumps(value))
