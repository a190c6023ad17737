from __future__ import annotations

from collections.abc import Iterator

import pytest

from slipway.client import GatewayClient
from slipway.client.terminal import Conversation, Repl
from slipway.testing.fake_upstream import FakeAnswer, FakeUpstream


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream(models=["tiny", "big"]) as server:
        yield server


class Person:
    """Types the given lines; an exception in the list is raised instead."""

    def __init__(self, lines: list[str | BaseException]) -> None:
        self._lines = iter(lines)
        self.seen: list[str] = []
        self.notes: list[str] = []
        self.interrupt_at: str | None = None

    def read(self, _prompt: str) -> str:
        line = next(self._lines, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    def write(self, text: str) -> None:
        self.seen.append(text)
        if self.interrupt_at is not None and self.interrupt_at in text:
            self.interrupt_at = None
            raise KeyboardInterrupt

    def note(self, text: object) -> None:
        self.notes.append(str(text))


def talk(
    upstream: FakeUpstream,
    *lines: str | BaseException,
    system: str = "",
    stop_at: str | None = None,
) -> tuple[Person, Conversation]:
    person = Person(list(lines))
    person.interrupt_at = stop_at
    with GatewayClient(upstream.url) as client:
        conversation = Conversation(client, "tiny", system)
        Repl(conversation, read=person.read, write=person.write, note=person.note).run()
    return person, conversation


def roles(upstream: FakeUpstream, number: int = -1) -> list[str]:
    return [f"{m['role']}:{m['content']}" for m in upstream.seen[number].body["messages"]]


def test_a_conversation_is_remembered(upstream: FakeUpstream) -> None:
    person, _ = talk(upstream, "a b", "c", "/bye", "never", system="be kind")
    assert roles(upstream) == ["system:be kind", "user:a b", "assistant:a b", "user:c"]
    assert "".join(person.seen) == "a b\nc\n"
    assert any("2 tokens in, 2 out" in note for note in person.notes)
    assert len(upstream.seen) == 2


def test_commands(upstream: FakeUpstream) -> None:
    person, _ = talk(
        upstream, "a", "/system", "/system be brief", "/clear", "/model", "/model big", "b", "/help"
    )
    assert roles(upstream) == ["system:be brief", "user:b"]
    assert upstream.seen[-1].body["model"] == "big"
    notes = "\n".join(person.notes)
    assert "no system prompt" in notes and "* tiny" in notes and "/clear" in notes


def test_mistakes_do_not_end_the_conversation(upstream: FakeUpstream) -> None:
    upstream.script(FakeAnswer(status=500, body=b'{"error": {"message": "boom"}}'))
    person, talked = talk(upstream, "fails", "/modle", "/model bigg", "works")
    notes = "\n".join(person.notes)
    assert "boom" in notes and "did you mean /model?" in notes and "no model bigg" in notes
    assert talked.model == "tiny"
    assert roles(upstream) == ["user:works"]


def test_a_message_of_several_lines(upstream: FakeUpstream) -> None:
    talk(upstream, '"""first', "/not a command", 'last"""', '"""one line"""')
    assert roles(upstream, 0) == ["user:first\n/not a command\nlast"]
    assert roles(upstream, 1)[-1] == "user:one line"


def test_ctrl_c_stops_the_answer_and_keeps_what_came(upstream: FakeUpstream) -> None:
    person, talked = talk(upstream, "one two three", "next", stop_at="two")
    assert talked.turns[1] == {"role": "assistant", "content": "one two"}
    assert "stopped; Ctrl-C again leaves" in person.notes
    assert roles(upstream)[-1] == "user:next"


def test_the_second_ctrl_c_leaves(upstream: FakeUpstream) -> None:
    for lines in (["a b", KeyboardInterrupt()], [KeyboardInterrupt(), KeyboardInterrupt()]):
        person, _ = talk(upstream, *lines, "never asked", stop_at="a")  # type: ignore[misc]
        assert all("never" not in piece for piece in person.seen)
    # anything typed in between begins counting anew
    talk(upstream, KeyboardInterrupt(), "asked", KeyboardInterrupt(), "again")
    assert roles(upstream)[-1] == "user:again"
