from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.cli.main import main
from slipway.core.errors import InputError, UsageError
from slipway.datasets import check_dataset
from slipway.gateway import add_token, add_user, list_tokens
from slipway.gateway.clock import now_ms
from slipway.gateway.feedback.consent import Consent
from slipway.gateway.feedback.export import ExportOptions, export_feedback
from slipway.gateway.feedback.keep import DAY_MS, save_capture
from slipway.gateway.feedback.share import most_per_user, over_share
from slipway.gateway.store import Store
from slipway.gateway.tables import feedback

TOPICS = (
    ("How do I return a broken lamp?", "Open the order and choose Return, then print the label."),
    ("Which bulbs fit the desk model?", "Any bulb with an E14 base of up to forty watts fits it."),
    ("When does the shop open on Sunday?", "We are closed on Sundays; Monday we open at nine."),
    ("Can I pay with an invoice?", "Companies can pay by invoice within thirty days of delivery."),
    ("Why does my light flicker at night?", "The dimmer is too weak; replace it by a newer kind."),
    ("Is the garden lantern waterproof?", "Yes, it stands heavy rain, but not lying under water."),
)
ALL = ExportOptions(user_share=1.0)


class Heard:
    """Writes captures and feedback as the gateway would."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.users: dict[str, int] = {}

    def add(
        self,
        topic: int,
        user: str = "ada",
        *,
        score: float | None = None,
        correction: str | None = None,
        answer: str | None = None,
        captured: bool = True,
        finish: str = "stop",
        days: int = 30,
        number: int = 0,
    ) -> str:
        if user not in self.users:
            self.users[user] = add_user(self.store, user).id
        request_id = f"req_{topic}_{user}_{number}"
        question, said = TOPICS[topic]
        at = now_ms() - DAY_MS
        if captured:
            choice = {
                "message": {"role": "assistant", "content": said if answer is None else answer},
                "finish_reason": finish,
            }
            assert save_capture(
                self.store,
                request_id=request_id,
                user_id=self.users[user],
                model="tiny",
                asked={"model": "tiny", "messages": [{"role": "user", "content": question}]},
                answer=json.dumps({"choices": [choice]}).encode(),
                created_at=at,
                days=days,
            )
        with self.store.write(catalogue=False) as db:
            values = {"request_id": request_id, "user_id": self.users[user], "created_at": at}
            db.execute(feedback.insert(), {**values, "score": score, "correction": correction})
        return request_id


@pytest.fixture
def heard(store: Store) -> Heard:
    return Heard(store)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def reasons(path: Path) -> dict[str, str]:
    return {row["id"]: row["reason"] for row in rows_of(path)}


def test_corrections_and_good_answers_become_rows_that_data_check_accepts(
    heard: Heard, tmp_path: Path
) -> None:
    corrected = heard.add(0, score=-1, correction="Ask at the desk; they take it back at once.")
    good = heard.add(1, score=1)
    bad = heard.add(2, score=-1)
    out = tmp_path / "train.jsonl"
    done = export_feedback(heard.store, out, ALL)
    rows = {row["id"]: row["messages"] for row in rows_of(out)}
    assert set(rows) == {corrected, good}
    assert rows[corrected] == [
        {"role": "user", "content": TOPICS[0][0]},
        {"role": "assistant", "content": "Ask at the desk; they take it back at once."},
    ]
    assert rows[good][-1]["content"] == TOPICS[1][1]
    assert reasons(tmp_path / "train.quarantine.jsonl") == {bad: "not_chosen"}
    assert (done.feedback, done.rows, dict(done.left_out)) == (3, 2, {"not_chosen": 1})
    report = check_dataset(out)
    assert report.ok and report.splits["train"].format == "openai"


def test_a_correction_is_preferred_to_the_answer(heard: Heard, tmp_path: Path) -> None:
    request_id = heard.add(0, correction="Ask at the desk; they take it back at once.")
    heard.add(1, score=1)
    out = tmp_path / "pairs.jsonl"
    export_feedback(heard.store, out, ExportOptions(preferences=True, user_share=1))
    (row,) = rows_of(out)
    assert row == {
        "id": request_id,
        "prompt": [{"role": "user", "content": TOPICS[0][0]}],
        "chosen": [{"role": "assistant", "content": "Ask at the desk; they take it back at once."}],
        "rejected": [{"role": "assistant", "content": TOPICS[0][1]}],
    }
    report = check_dataset(out)
    assert report.ok


def test_everything_left_out_is_named_with_its_reason(heard: Heard, tmp_path: Path) -> None:
    kept = heard.add(0, score=1)
    expected = {
        heard.add(0, score=1, number=1): "same",
        heard.add(0, score=1, number=2, answer=TOPICS[0][1] + " Yes"): "near",
        heard.add(1, score=1, captured=False): "no_capture",
        heard.add(1, score=1, days=1, number=1): "no_capture",  # its time is over
        heard.add(2, score=1, finish="length"): "cut_off",
        heard.add(3, correction=TOPICS[3][1] + " "): "same_answer",
        heard.add(4, score=1, answer=""): "unreadable",
    }
    out = tmp_path / "train.jsonl"
    done = export_feedback(heard.store, out, ALL)
    beside = reasons(tmp_path / "train.quarantine.jsonl")
    # which of those alike stays is the choice of the datasets' own rule
    alike = {kept, *(one for one, why in expected.items() if why in ("same", "near"))}
    for request_id, reason in expected.items():
        if request_id not in alike:
            assert beside[request_id] == reason
    assert {row["id"] for row in rows_of(out)} < alike
    assert done.rows == 1 and done.feedback == 8 == done.rows + len(beside)
    assert done.left_out.total() == len(beside)


def test_no_user_floods_the_rows(heard: Heard, tmp_path: Path) -> None:
    for topic in range(4):
        heard.add(topic, "mallory", score=1)
    heard.add(4, "ada", score=1)
    heard.add(5, "bob", score=1)
    out = tmp_path / "train.jsonl"
    done = export_feedback(heard.store, out, ExportOptions(user_share=0.5))
    users = Counter(row["id"].split("_")[2] for row in rows_of(out))
    assert users == {"mallory": 2, "ada": 1, "bob": 1}
    assert done.left_out == {"user_share": 2} and done.share_held


def test_one_user_alone_is_told_of_and_kept(heard: Heard, tmp_path: Path) -> None:
    heard.add(0, score=1)
    done = export_feedback(heard.store, tmp_path / "train.jsonl")
    assert done.rows == 1 and not done.share_held and done.quarantine is None


def test_nothing_to_export_is_an_error_that_counts_why(heard: Heard, tmp_path: Path) -> None:
    heard.add(0, score=1, captured=False)
    with pytest.raises(InputError, match="no_capture 1"):
        export_feedback(heard.store, tmp_path / "train.jsonl")
    assert not (tmp_path / "train.jsonl").exists()
    assert (tmp_path / "train.quarantine.jsonl").exists()
    with pytest.raises(UsageError):
        export_feedback(heard.store, tmp_path / "t.jsonl", ExportOptions(user_share=0))


@given(
    st.dictionaries(st.text(max_size=2), st.integers(1, 30), max_size=6),
    st.floats(0.01, 1.0),
)
def test_a_share_holds_and_no_larger_number_of_rows_would(
    rows: dict[str, int], share: float
) -> None:
    def holds(most: int) -> bool:
        left = [min(count, most) for count in rows.values()]
        return max(left) <= share * sum(left)

    most = most_per_user(rows, share)
    top = max(rows.values(), default=0)
    if most is None:
        assert not any(holds(n) for n in range(1, top + 1))
    else:
        assert holds(most) and not any(holds(n) for n in range(most + 1, top + 1))
        names = [name for name, count in rows.items() for _ in range(count)]
        gone = over_share(names, most)
        assert len(names) - len(gone) == sum(min(count, most) for count in rows.values())


def test_the_commands_list_export_forget_and_change_consent(
    heard: Heard, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> Any:
        assert main(["gateway", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    heard.add(0, score=1)
    (row,) = run("feedback", "ls")
    assert (row["user"], row["score"], row["captured"]) == ("ada", 1, True)
    out = tmp_path / "train.jsonl"
    assert run("feedback", "export", "--out", str(out), "--since", "2d")["rows"] == 1
    assert main(["data", "check", str(out)]) == 0
    capsys.readouterr()
    assert main(["gateway", "feedback", "export", "--out", str(out)]) != 0  # it is there
    capsys.readouterr()
    assert main(["gateway", "feedback", "ls"]) == 0
    assert "req_0_ada_0" in capsys.readouterr().out

    made = run("token", "add", "t", "--user", "ada", "--capture", "on", "--capture-days", "7")
    assert made["capture"] == {"share_bp": 10_000, "days": 7, "max_bytes": 256 * 1024}
    assert run("feedback", "consent", "t")["capture"] is None
    run("feedback", "consent", "t", "--capture", "on", "--capture-share", "100")
    assert list_tokens(heard.store)[0].capture == Consent(100)
    assert main(["gateway", "feedback", "consent", "t", "--capture-days", "3"]) == 2
    capsys.readouterr()
    assert run("feedback", "purge") == {"captures": 0, "feedback": 0}
    assert run("feedback", "purge", "--user", "ada") == {"captures": 1, "feedback": 1}
    assert run("feedback", "ls") == []


def test_a_token_without_the_option_has_no_consent(store: Store) -> None:
    add_user(store, "ada")
    assert add_token(store, "t", user="ada")[0].capture is None


def test_what_was_purged_is_no_longer_on_the_disk(heard: Heard) -> None:
    def on_disk() -> bool:
        files = heard.store.path.parent.glob("gateway.db*")
        return any(b"unforgettable" in path.read_bytes() for path in files)

    heard.add(0, score=1, answer="unforgettable " * 500)
    heard.store.checkpoint()
    assert on_disk()
    assert main(["gateway", "feedback", "purge", "--user", "ada"]) == 0
    assert not on_disk()
