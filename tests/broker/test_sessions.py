"""What a client may let pile up: requests, answers, events."""

from __future__ import annotations

import pytest

from emu.broker.sessions import EVENT_ROOM, OWED, Sessions

DATA = 1 << 20


class Wire:
    """A router whose client reads nothing: `room` more bytes are kept."""

    def __init__(self, room=1 << 30):
        self.room, self.bytes, self.strangers, self.dropped = room, 0, [], 0

    def send(self, identity, message, *, keep=False):
        if not keep:
            self.strangers.append(identity)
            return False
        if self.bytes + len(message) > self.room:
            self.dropped += 1
            return False
        self.bytes += len(message)
        return True

    def kept(self, identity):
        assert identity
        return self.bytes

    def forget(self, identity):
        assert identity
        self.bytes = 0


@pytest.fixture
def wire():
    return Wire()


@pytest.fixture
def sessions(wire):
    return Sessions(wire)


@pytest.fixture
def session(sessions):
    session = sessions.open("deaf", wants=True, door=None)
    sessions.bind(session.token, b"me")
    return session


def test_data_under_way_and_unread_is_bounded_together(sessions, session):
    for request in range(1, OWED // DATA + 1):
        assert sessions.begin(session, request, b"me", DATA) == ""
    assert "read the answers" in sessions.begin(session, 99, b"me", DATA)
    assert sessions.begin(session, 99, b"me") == ""  # what brings no data is taken
    sessions.reply(session.number, 1, {"data": bytes(DATA)})
    assert "read the answers" in sessions.begin(session, 100, b"me", DATA)
    assert session.owed == OWED - DATA


def test_a_client_that_reads_may_ask_again(sessions, session, wire):
    for request in range(1, 1000):
        assert sessions.begin(session, request, b"me", DATA) == ""
        sessions.reply(session.number, request, {"data": bytes(DATA)})
        wire.bytes = 0
    assert session.owed == 0


def test_who_lets_answers_pile_up_is_cut_off_once(sessions, session, wire):
    wire.room = 1000
    for request in range(1, 100):
        assert sessions.begin(session, request, b"me") == ""
        sessions.reply(session.number, request, {"text": "x" * 100})
    assert sessions.overrun == [session]


def test_events_are_dropped_before_answers_lack_room(sessions, session, wire):
    while sessions.event(session.number, "EVENT", {"text": "x" * 4000}):
        assert wire.bytes < 2 * EVENT_ROOM
    assert session.events_lost == 1
    sessions.begin(session, 1, b"me")
    sessions.reply(session.number, 1, {})
    assert sessions.overrun == []


def test_for_a_stranger_nothing_waits(sessions, wire):
    sessions.tell(b"stranger", b"who are you")
    assert (wire.strangers, wire.bytes, sessions.overrun) == ([b"stranger"], 0, [])


def test_what_waits_for_a_lost_session_is_forgotten(sessions, session, wire):
    wire.bytes = 5
    sessions.lose(session)
    assert wire.bytes == 0
