"""The dialogue in a real pseudo-terminal."""

from __future__ import annotations

import stat
import time

from tests.api.conftest import RunningDaemon, StartDaemon
from tests.pseudo_terminal import Terminal

from slipway.core.paths import Home
from slipway.store import create_model


def talk(
    url: str, model: str, *arguments: str, columns: int = 80, wrap: bool = False, **env: str
) -> Terminal:
    plain = () if wrap else ("--nowordwrap",)
    return Terminal(
        ["run", model, *plain, *arguments], env={"OLLAMA_HOST": url, **env}, columns=columns
    )


def test_a_conversation_is_remembered_until_it_is_cleared(daemon: RunningDaemon, shop: str) -> None:
    with talk(daemon.url, shop) as terminal:
        terminal.line("hello there")
        terminal.wait_for("echo: hello there")
        terminal.line('"""/dump"""')
        answer = terminal.wait_for(">>> ")
        assert '"content": "hello there"' in answer and '"content": "echo: hello there"' in answer
        terminal.type("/clear\n")
        terminal.line('"""/dump"""')
        terminal.wait_for("messages")
        assert "hello" not in terminal.wait_for(">>> ")
        terminal.type("/bye\n")
        assert terminal.end() == 0


def test_a_block_of_several_lines_is_one_message(daemon: RunningDaemon, shop: str) -> None:
    with talk(daemon.url, shop) as terminal:
        terminal.line('"""first')
        terminal.wait_for("... ")
        terminal.type("/bye\n")
        terminal.wait_for("... ")
        terminal.type('last"""\n')
        terminal.wait_for("echo: first /bye last")
        assert terminal.leave() == 0


def test_ctrl_c_stops_the_answer_and_not_the_dialogue(start_daemon: StartDaemon, shop: str) -> None:
    daemon = start_daemon("--tokens-per-second", "20")
    with talk(daemon.url, shop) as terminal:
        terminal.line('"""/count 2000"""')
        terminal.wait_for("w3 ")
        terminal.type("\x03")
        terminal.wait_for("stopped")
        terminal.line("still there?")
        terminal.wait_for("echo: still there?")
        terminal.wait_for(">>> ")
        terminal.type("half a line\x03")
        terminal.wait_for("Ctrl-D or /bye leaves")
        terminal.wait_for(">>> ")
        until = time.monotonic() + 10  # the daemon hears of it a moment later
        while daemon.residents()[0].leases and time.monotonic() < until:
            time.sleep(0.02)
        assert daemon.residents()[0].leases == 0
        terminal.type("\x04")
        assert terminal.end() == 0
        assert "Traceback" not in terminal.output


def test_set_and_show(daemon: RunningDaemon, shop: str) -> None:
    with talk(daemon.url, shop) as terminal:
        terminal.line("/set parameter num_predict 3")
        terminal.line('/set parameter stop END "two words"')
        terminal.line('/set system "Be kind."')
        terminal.line("/show parameters")
        shown = terminal.wait_for("set here:")
        assert "temperature                    0.25" in shown
        terminal.wait_for('"two words"')
        terminal.line("/show system")
        terminal.wait_for("Be kind.")
        terminal.line("/show info")
        assert "completion" in terminal.wait_for(">>> ") and "llama" in terminal.output
        terminal.type("/show modelfile\n")
        terminal.wait_for("FROM ")
        terminal.line("/show license")
        terminal.wait_for("no license")
        terminal.line("/set verbose")
        terminal.line('"""/count 9"""')
        terminal.wait_for("w0 w1 w2")
        terminal.wait_for("eval rate:")
        terminal.line("/set noformat")
        terminal.line("/set format json")
        terminal.line("/set quiet")
        terminal.line("/set parameter num_predict -1")
        terminal.line('"""/dump"""')
        request = terminal.wait_for(">>> ").replace("\n", "")
        assert '"Be kind."' in request and "response_format" in request and '"END"' in request
        terminal.type("\x04")
        assert terminal.end() == 0


def test_mistakes_do_not_end_the_dialogue(daemon: RunningDaemon, shop: str) -> None:
    with talk(daemon.url, shop) as terminal:
        for typed, told in (
            ("/shwo info", "did you mean /show?"),
            ("/show everything", "there are info"),
            ("/set parameter temprature 1", "temperature"),
            ("/set parameter temperature warm", "warm"),
            ("/set parameter", "needs a name"),
            ("/set verbos", "/set verbose"),
            ("/set think", "cannot think"),
            ("/set format {oops", "no JSON schema"),
            ("/load", "which model?"),
            ("/load nothing", "no model `nothing`"),
            ("/save", "under which name?"),
            ('"""/die"""', "error:"),
        ):
            terminal.line(typed)
            terminal.wait_for(told)
        terminal.line("alive")
        terminal.wait_for("echo: alive")
        terminal.line("/?")
        terminal.wait_for("/load NAME")
        assert terminal.leave() == 0


def test_another_model_is_loaded_by_name_and_begun_anew(
    daemon: RunningDaemon, shop: str, home: Home
) -> None:
    create_model("kefu", f"FROM {shop}\nSYSTEM Speak Chinese.", home=home)
    with talk(daemon.url, shop) as terminal:
        terminal.line("secret")
        terminal.line("/load kefu")
        terminal.wait_for("talking to kefu")
        terminal.line('"""/dump"""')
        request = terminal.wait_for(">>> ").replace("\n", "")
        assert "Speak Chinese." in request and "secret" not in request
        terminal.type("/bye\n")
        assert terminal.end() == 0


def test_lines_are_remembered_for_the_owner_only(
    daemon: RunningDaemon, shop: str, home: Home
) -> None:
    path = home.root / "run_history"
    with talk(daemon.url, shop) as terminal:
        terminal.line("remember me")
        terminal.line("/set nohistory")
        terminal.line("forget me")
        terminal.line("/set history")
        terminal.line("/bye")
        assert terminal.end() == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = path.read_text().splitlines()
    assert "remember me" in lines and "forget me" not in lines
    with talk(daemon.url, shop) as terminal:
        terminal.wait_for(">>> ")
        terminal.type("\x1b[A\x1b[A\x1b[A\x1b[A\n")
        terminal.wait_for("echo:")
        assert terminal.leave() == 0
    with talk(daemon.url, shop, OLLAMA_NOHISTORY="1") as terminal:
        terminal.line("never written")
        terminal.line("/bye")
        assert terminal.end() == 0
    assert "never written" not in path.read_text()


def test_words_are_wrapped_to_the_terminal_and_chinese_is_two_columns_wide(
    daemon: RunningDaemon, shop: str
) -> None:
    text = "退货需要保留发票" * 6
    with talk(daemon.url, shop, columns=40, wrap=True) as terminal:
        terminal.line(text)
        terminal.wait_for("echo: ")
        wrapped = terminal.wait_for(">>> ")
        assert wrapped.replace("\n", "") == text
        assert len(wrapped.partition("\n")[0]) == 15  # 6 + 2 * 15 = 36
        terminal.type("/set nowordwrap\n")
        terminal.line(text)
        terminal.wait_for(f"echo: {text}\n")
        assert terminal.leave() == 0


def test_the_dialogue_speaks_chinese(daemon: RunningDaemon, shop: str) -> None:
    with talk(daemon.url, shop, SLIPWAY_LANG="zh") as terminal:
        terminal.line("/help")
        terminal.wait_for("清空对话")
        terminal.line("/set verbose")
        terminal.line("你好")
        terminal.wait_for("生成速度：")
        assert terminal.leave() == 0


def test_a_conversation_that_outgrows_its_context_says_what_was_left_out(
    daemon: RunningDaemon, shop: str
) -> None:
    with talk(daemon.url, shop, "-o", "num_ctx=48", "-o", "num_predict=4") as terminal:
        for number in range(4):
            terminal.line(f"{number} " + "word " * 14)
        terminal.wait_for("left out to fit the context")
        assert terminal.leave() == 0


def test_tab_completes_commands_and_models(daemon: RunningDaemon, shop: str) -> None:
    with talk(daemon.url, shop) as terminal:
        terminal.wait_for(">>> ")
        terminal.type("/set verb\t\n")
        terminal.wait_for("timings are shown")
        terminal.wait_for(">>> ")
        terminal.type("/load sh\t\n")
        terminal.wait_for(f"talking to {shop}")
        assert terminal.leave() == 0


def test_a_conversation_is_saved_as_a_model_and_goes_on_from_it(
    daemon: RunningDaemon, shop: str, home: Home
) -> None:
    with talk(daemon.url, shop) as terminal:
        terminal.line("/set parameter temperature 0.5")
        terminal.line("/set parameter stop END")
        terminal.line('/set system """Be "kind".')
        terminal.wait_for("... ")
        terminal.type('Always."""\n')
        terminal.line("remember me")
        terminal.wait_for("echo: remember me")
        terminal.line("/save kefu:kind")
        terminal.wait_for("saved as kefu:kind")
        terminal.line("/save kefu:kind")
        terminal.wait_for("there is another model")
        terminal.line("/save a//b")
        terminal.wait_for("error:")
        terminal.line("/load kefu:kind")
        terminal.line('"""/dump"""')
        request = terminal.wait_for('"stream"')
        assert terminal.leave() == 0
    assert '"temperature": 0.5' in request and '"END"' in request
    for text in ('Be \\"kind\\".\\nAlways.', "remember me", "echo: remember me"):
        assert text in request


def test_thoughts_stand_in_grey_before_the_answer_and_can_be_hidden(
    daemon: RunningDaemon, thinker: str
) -> None:
    with talk(daemon.url, "thinker") as terminal:
        terminal.line('"""/think"""')
        terminal.wait_for("\x1b[90mThinking...\n\x1b[0m\x1b[90mlet me \x1b[0m\x1b[90msee\x1b[0m")
        terminal.wait_for("...done thinking.")
        terminal.wait_for("echo: /think")
        assert terminal.leave() == 0
    with talk(daemon.url, "thinker", "--hidethinking") as terminal:
        terminal.line('"""/think"""')
        assert "let me" not in terminal.wait_for("echo: /think")
        assert terminal.leave() == 0


def test_an_engine_that_died_is_talked_to_again(start_daemon: StartDaemon, shop: str) -> None:
    daemon = start_daemon("--load-delay", "0.2")
    with talk(daemon.url, shop) as terminal:
        terminal.line('"""/die"""')
        terminal.wait_for("error:")
        terminal.line("back?")
        terminal.wait_for("echo: back?")
        assert terminal.leave() == 0
