"""What stands between a request and a channel: key, network, model, limits, and the reserve."""

from __future__ import annotations

import asyncio
import ipaddress
from functools import lru_cache

from slipway.gateway.accounts import Token
from slipway.gateway.books import Books, Reserve, StaleError
from slipway.gateway.directory import Catalogue, Directory
from slipway.gateway.exchange import CLIENT_LEFT, Call, Exchange, ending
from slipway.gateway.limits import Gate, Limit, Pass
from slipway.gateway.limits.gate import Rule
from slipway.gateway.limits.rules import Window
from slipway.gateway.pricing import cost_micro, most_tokens, tokens_estimate
from slipway.gateway.problems import (
    ApiError,
    model_not_allowed,
    model_not_found,
    network_refused,
)


class Admission:
    """Lets requests in; one for each event loop.

    Args:
        patience_s: how long a request may wait for one of the places that a limit allows.
    """

    def __init__(self, directory: Directory, books: Books, gate: Gate, patience_s: float) -> None:
        self._directory = directory
        self._books = books
        self._gate = gate
        self._patience_s = patience_s

    async def admit(self, call: Call) -> Exchange:
        """Check key, network, model and limits, reserve what it may cost.

        Raises:
            ApiError: the request is refused; nothing is reserved or counted then.
        """
        catalogue, token, model = await self._known(call, -1)
        rules = catalogue.rules_for(token, model)
        ticket = await self._enter(call, token, rules)
        try:
            while True:
                try:
                    return await self._reserved(call, catalogue, token, model, ticket)
                except StaleError as stale:
                    catalogue, token, model = await self._known(call, stale.revision)
        except BaseException:
            if ticket is not None:
                self._gate.leave(ticket, None)
            raise

    def leave(self, exchange: Exchange) -> None:
        """The request is over; its place is free, its tokens are known."""
        if exchange.ticket is not None:
            usage = exchange.usage
            used = None if usage is None else usage.prompt + usage.completion
            self._gate.leave(exchange.ticket, used)

    async def _known(self, call: Call, newest: int) -> tuple[Catalogue, Token, str]:
        """Who asks for what; a refusal by an old copy of the catalogue is looked at again."""
        while True:
            catalogue = await self._directory.catalogue(newest)
            try:
                token = (await self._directory.key(call.key, call.created_at)).token
                _check_network(token, call.address)
                return catalogue, token, _allowed_model(catalogue, token, call.model)
            except ApiError:
                newest = await self._directory.newest()
                if newest == catalogue.revision:
                    raise

    async def _enter(self, call: Call, token: Token, rules: list[Rule]) -> Pass | None:
        if not rules:
            return None
        counts = any(limit.tpm is not None for _, limit in rules)
        tokens = tokens_estimate(call.body) if counts else 0
        whose = ("token", str(token.id))
        return await self._gate.enter(rules, whose, tokens, self._patience_s)

    async def _reserved(
        self, call: Call, catalogue: Catalogue, token: Token, model: str, ticket: Pass | None
    ) -> Exchange:
        price = catalogue.prices.get(model)
        most = cost_micro(most_tokens(call.body), price) if price is not None else 0
        entry = Reserve(
            call.request_id,
            token.id,
            most,
            model,
            call.endpoint,
            call.created_at,
            catalogue.revision,
            _budgets(catalogue.rules_for(token, model), call.created_at),
        )
        exchange = Exchange(call, token, model, price, catalogue, ticket)
        try:
            await self._books.reserve(entry)
        except asyncio.CancelledError:
            # The reserve may have been written already; what is posted now is booked after it.
            exchange.failed(CLIENT_LEFT, "client_disconnected")
            self._books.end_later(ending(exchange))
            raise
        return exchange


def _budgets(rules: list[Rule], at_ms: int) -> list[tuple[Window, int]]:
    return [
        ((*subject, period), most)
        for subject, limit in rules
        if _has_budget(limit)
        for period, most in limit.budgets(at_ms)
    ]


def _has_budget(limit: Limit) -> bool:
    amounts = (limit.day_micro, limit.month_micro, limit.total_micro)
    return any(amount is not None for amount in amounts)


def _allowed_model(catalogue: Catalogue, token: Token, asked: str) -> str:
    model = catalogue.resolve(asked)
    if not token.allows(asked) and not (model and token.allows(model)):
        raise model_not_allowed(asked)
    if model is None:
        raise model_not_found(asked)
    return model


def _check_network(token: Token, address: str) -> None:
    if token.networks is not None and not _inside(address, token.networks):
        raise network_refused()


@lru_cache(maxsize=4096)
def _inside(address: str, networks: tuple[str, ...]) -> bool:
    """Whether an address is in one of the networks; IPv4 within IPv6 is the IPv4 one."""
    try:
        given = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(given, ipaddress.IPv6Address) and given.ipv4_mapped:
        given = given.ipv4_mapped
    return any(given in ipaddress.ip_network(network) for network in networks)
