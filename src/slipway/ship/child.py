"""A stage in a process of its own: what torch took is given back when the stage ends.

Otherwise the memory of a merge would lie beside the converter's, and beside that of every program
that comes after it.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from slipway.core.errors import SlipwayError, ToolError
from slipway.core.events import EventLog
from slipway.core.i18n import Text, tr
from slipway.core.process import die_with_parent

Work = Callable[..., Any]
Tell = Callable[[Text | str], None]


def run_apart(
    work: Work,
    *arguments: Any,
    events: EventLog,
    tell: Tell,
    without: tuple[str, ...] = (),
    **more: Any,
) -> Any:
    """Call `work(*arguments, events=…, **more)` in a child process and return its result.

    Its events and its errors come back as if it had been called here; it dies with this process.

    Args:
        work: a function of a module, which takes `events`.
        without: packages that cannot be imported there: `transformers` loads torch for a tokenizer
            too, which takes seconds and 200 MB, and does without where it is missing.
        tell: what `work` gets as its `say`, where `more` has a `say`.

    Raises:
        ToolError: the child died, as when memory ran out.
        and what `work` raises.
    """
    job = pickle.dumps((work.__module__, work.__name__, without, pickle.dumps((arguments, more))))
    with subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=die_with_parent,
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(job)
        child.stdin.close()
        try:
            while True:
                kind, value = pickle.load(child.stdout)
                match kind:
                    case "event":
                        events.emit(
                            value.pop("type"), **{k: v for k, v in value.items() if k != "at"}
                        )
                    case "say":
                        tell(value)
                    case "error":
                        raise value
                    case _:
                        return value
        except EOFError:
            raise ToolError(
                "ship.child_died",
                tr(
                    "the process of `{work}` died ({status})",
                    work=work.__name__,
                    status=child.wait(),
                ),
                tr("memory may have run out; the same command goes on from here"),
            ) from None
        except BaseException:
            child.kill()
            raise


def main() -> None:
    """The child: a job from standard input, messages to what was standard output."""
    out = sys.stdout.buffer
    sys.stdout = sys.stderr  # what libraries print must not come between the messages

    def send(kind: str, value: Any) -> None:
        pickle.dump((kind, value), out)
        out.flush()

    module, name, without, rest = pickle.load(sys.stdin.buffer)
    sys.modules.update(dict.fromkeys(without))
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    work: Work = getattr(import_module(module), name)
    arguments, more = pickle.loads(rest)
    log = EventLog(None, lambda event: send("event", dict(event)))
    if "say" in more:
        more["say"] = lambda text: send("say", text)
    try:
        send("done", work(*arguments, events=log, **more))
    except SlipwayError as error:
        send("error", error)


if __name__ == "__main__":
    main()
