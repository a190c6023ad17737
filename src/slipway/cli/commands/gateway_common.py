"""What the commands of `slipway gateway` share: the database, options, and how values are shown."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.core.errors import UsageError
from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.gateway import Channel, Price, Store

MICRO = 1_000_000
json_option = click.option("--json", "as_json", is_flag=True, help=str(tr("Print JSON.")))


def opened() -> closing[Store]:
    """The gateway's database, closed at the end of the block."""
    from slipway.gateway import open_store

    return closing(open_store())


def split_names(names: str | None, option: str) -> list[str] | None:
    """Names separated by commas; None when the option was left out."""
    if names is None:
        return None
    found = [name.strip() for name in names.split(",") if name.strip()]
    if not found:  # an unset variable in a script must not widen or close what was meant
        raise UsageError(
            "gateway.empty_option",
            tr("{option} is empty", option=option),
            tr("name at least one, or leave {option} out", option=option),
        )
    return found


def read_key(path: Path | None) -> str | None:
    """A service's own key from a file or standard input."""
    if path is None:
        return None
    try:
        key = (sys.stdin.read() if str(path) == "-" else path.read_text("utf-8")).strip()
    except UnicodeDecodeError:
        key = ""
    if not key.isascii() or not key.isprintable() or not key:
        raise UsageError(
            "gateway.bad_key_file",
            tr("{path} holds no key: one line of ASCII text is expected", path=path),
            tr("put the key in it: `printf %s KEY > {path}`", path=path),
        )
    return key


def price_of(price_in: str | None, price_out: str | None) -> Price | None:
    """The price that both options give; None when neither was given."""
    from slipway.gateway import Price, parse_money

    if price_in is None and price_out is None:
        return None
    if price_in is None or price_out is None:
        raise UsageError(
            "gateway.half_price", tr("give both `--price-in` and `--price-out`, or neither")
        )
    return Price(parse_money(price_in, "--price-in"), parse_money(price_out, "--price-out"))


def money(micro: int) -> str:
    """Micro-units as an amount with at least two decimals."""
    whole = f"{micro / MICRO:.6f}".rstrip("0")
    return whole + "0" * max(0, 2 - len(whole.partition(".")[2]))


def state(enabled: bool) -> str:
    """Whether something may be used."""
    return str(tr("enabled") if enabled else tr("disabled"))


def moment(at_ms: int | None) -> str:
    """A time as people read it."""
    from slipway.gateway.clock import to_rfc3339

    text = to_rfc3339(at_ms)
    return f"{text[:10]} {text[11:16]}" if text else "-"


def prices_json(row: Channel, prices: dict[str, Price]) -> dict[str, Any]:
    """Prices of the models of a channel, for `--json`."""
    return {"prices": {name: prices[name].as_json() for name in row.models if name in prices}}
