"""Rows: what is heard of an answer, once or anew, and jobs whose time is over."""

import asyncio

import pytest

from steersman.core.requests import Completion, Request
from steersman.core.types import Prompt
from steersman.server.engine import Engine
from steersman.server.errors import ApiError
from steersman.server.rows import Done, Job, Row
from steersman.server.text import Text

END = 0


def letters(ids):
    return "".join(chr(96 + i) for i in ids if i != END)


def row_of(*stops, told=None, num=8, **more) -> Row:
    told = [] if told is None else told
    text = Text(letters, stops, strip=False)
    return Row(Request(Prompt("?"), max_new_tokens=num), text, tell=told.append, **more)


def test_an_answer_that_met_its_stop_runs_anew_up_to_it():
    row = row_of("bc")
    for token in (1, 2, 3):
        assert not row.over
        row.take(token)
    assert row.over and row.complete
    row.begin_again()
    for token in (1, 2, 3):
        assert not row.over
        row.take(token)
    assert row.over
    row.begin_again()
    row.cancelled = True
    assert row.over


def test_what_is_told_is_told_once_however_often_it_runs():
    told = []
    row = row_of(told=told, streams=True)
    for token in (1, 2):
        row.take(token)
    row.begin_again()
    row.take(1)
    row.begin_again()
    for token in (1, 2, 3):
        row.take(token)
    assert "".join(piece.text for piece in told) == "abc"
    row.begin_again()
    with pytest.raises(RuntimeError, match="differed"):
        row.take(7)


@pytest.mark.parametrize(("tokens", "ends"), [((1, END), True), ((1, 2), False)])
def test_an_answer_is_complete_at_its_end_or_its_length(tokens, ends):
    row = row_of(num=2)
    row.take(tokens[0])
    assert not row.complete
    row.take(tokens[1], ends=ends)
    assert row.complete


def job_of(*lengths, timeout) -> Job:
    job = Job(timeout=timeout, steering=None)
    for num in lengths:
        job.add(Request(Prompt("?"), max_new_tokens=num), Text(letters, strip=False), streams=False)
    return job


def test_an_answer_that_is_complete_is_told_behind_its_time():
    async def play():
        job, late = job_of(2, timeout=0.0), job_of(2, 3, timeout=0.0)
        for row in (*job.rows, *late.rows):
            row.take(1)
            row.take(2)
        with pytest.raises(ApiError, match="took longer") as error:
            await late.all()
        assert error.value.status == 504 and all(row.cancelled for row in late.rows)
        waits = asyncio.create_task(job.all())
        while job.began == asyncio.get_running_loop().time():
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waits.done()
        job.rows[0].finish(Completion("ab", (1, 2), 1))
        (done,) = await waits
        assert isinstance(done, Done) and done.text == "ab" and not job.rows[0].cancelled

    asyncio.run(play())


def test_a_batch_that_fails_is_halved_until_it_runs():
    batches, told = [], [[] for _ in range(8)]
    rows = [row_of("bc", told=mine, num=i + 3) for i, mine in enumerate(told)]
    bad = rows[5].request

    def generate(requests, *, sink, cancelled):
        batches.append([r.max_new_tokens - 3 for r in requests])
        heard = [0] * len(requests)
        for token in (1, 2, 3):
            for i in range(len(requests)):
                if not (heard[i] and cancelled(i)):
                    sink(i, token)
                    heard[i] += 1
        if bad in requests:
            raise ValueError
        return [Completion("", tuple(range(num)), 1) for num in heard]

    engine = Engine(generate, lambda requests: [[*range(len(requests))]], max_batch=8, max_queue=8)
    engine.start()
    engine.submit(rows)
    assert engine.stop(20)
    assert batches == [
        [*range(8)], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6, 7],
    ]  # fmt: skip
    assert isinstance(told[5][0], ApiError)
    for i in (0, 1, 2, 3, 4, 6, 7):
        (done,) = told[i]
        assert done.text == "a" and len(done.completion.token_ids) == 3


def test_requests_that_cannot_be_grouped_run_alone_and_the_engine_lives():
    told = []

    def groups(requests):
        raise ValueError

    def generate(requests, *, sink, cancelled):
        return [Completion("", (), 1) for _ in requests]

    engine = Engine(generate, groups, max_batch=8, max_queue=8).start()
    engine.submit([row_of(told=told), row_of(told=told)])
    assert engine.stop(20)
    assert [type(event) for event in told] == [Done, Done]


@pytest.mark.parametrize("token", [END, 1])
def test_the_engine_tells_rows_which_tokens_end_answers(token):
    row, seen = row_of(), []

    def generate(requests, *, sink, cancelled):
        sink(0, token)
        seen.append(row.complete)
        return [Completion("", (token,), 1)]

    engine = Engine(
        generate, lambda requests: [[0]], max_batch=8, max_queue=8, ends=lambda: [END]
    ).start()
    engine.submit([row])
    assert engine.stop(20)
    assert seen == [token == END]
