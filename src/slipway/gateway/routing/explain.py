"""Where a request would go, and why: for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from slipway.core.i18n import Text, tr
from slipway.gateway.routing.affinity import rendezvous
from slipway.gateway.routing.attempts import Router
from slipway.gateway.routing.breaker import Reason, Standing
from slipway.gateway.routing.channel import Channel
from slipway.gateway.routing.strategy import Ask, Refusal, RefusalCode, Strategy, refusal, route

PlaceCode = Literal["prefix", "prefix_hot", "weight_0", "full", "next"]


@dataclass(frozen=True, slots=True)
class Line:
    """What is said of one channel.

    Attributes:
        place: 1 for the channel that is tried first; None when it is refused.
        code: why: the strategy or `prefix` for a tier's first, else another `PlaceCode`; for a
            refused one why it is refused.
        share: of the requests that come here first, where the strategy is by weight.
        facts: what is known of it at this moment, as JSON's types.
    """

    channel: Channel
    place: int | None
    code: RefusalCode | PlaceCode | Strategy
    text: Text
    share: float | None
    facts: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The line as JSON; its text in English."""
        return {
            "id": self.channel.id,
            "name": self.channel.name,
            "kind": self.channel.kind,
            "priority": self.channel.priority,
            "weight": self.channel.weight,
            "place": self.place,
            "reason": self.code,
            "text": self.text.en,
            "share": self.share,
            **self.facts,
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """Every channel of a model: the eligible ones in the order of trying, then the refused ones.

    Attributes:
        asked: the model's name as it was asked for.
        model: the name under which it is offered; None when no channel has it at all.
        ordered_by: what orders channels of one priority.
        fallbacks: models that are tried when no channel of this one can answer.
        come_back_s: seconds until a refused channel may be tried again, when none is eligible.
    """

    asked: str
    model: str | None
    group: str | None
    ordered_by: Strategy | Literal["prefix"]
    lines: tuple[Line, ...]
    fallbacks: tuple[str, ...] = ()
    come_back_s: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The explanation as JSON."""
        return {
            "asked": self.asked,
            "model": self.model,
            "group": self.group,
            "ordered_by": self.ordered_by,
            "fallbacks": list(self.fallbacks),
            "come_back_s": self.come_back_s,
            "channels": [line.as_json() for line in self.lines],
        }

    def texts(self) -> list[Text]:
        """The explanation line by line, in the language of whoever reads it."""
        if self.model is None:
            return [tr("no channel has the model `{model}`", model=self.asked)]
        eligible = sum(1 for line in self.lines if line.place is not None)
        said = [
            tr(
                "`{model}`: {eligible} of {all} channels can take the request",
                model=self.model,
                eligible=eligible,
                all=len(self.lines),
            )
        ]
        for line in self.lines:
            name = line.channel.name
            if line.place is None:
                said.append(tr("  -  {name}: {why}", name=name, why=line.text))
            else:
                said.append(
                    tr("  {place}. {name}: {why}", place=line.place, name=name, why=line.text)
                )
        if self.fallbacks:
            said.append(tr("then the models {names}", names=", ".join(self.fallbacks)))
        if eligible == 0 and self.come_back_s is not None:
            said.append(tr("the next try is possible in {s} s", s=_rounded(self.come_back_s)))
        return said

    def as_text(self) -> str:
        """`texts` as one string."""
        return "\n".join(str(text) for text in self.texts())


def explain(router: Router, ask: Ask, now: float) -> Explanation:
    """Explain where a request would go now. It takes no permit and changes nothing.

    By weight and by exploration the order is one draw of many: `share` says how often a channel
    is first.

    Args:
        ask: with the model's name as it was asked for.
        now: UTC seconds.
    """
    table, live = router.table, router.live
    model = table.resolve(ask.model) or table.known_name(ask.model)
    ordered_by: Strategy | Literal["prefix"] = router.rules.strategy
    if ask.prefix is not None and router.rules.affinity:
        ordered_by = "prefix"
    if model is None:
        return Explanation(ask.model, None, ask.group, ordered_by, ())
    own = replace(ask, model=model)
    targets = route(table, own, live, router.rules, now, router.random)
    order = [target.channel for target in targets]
    lines = [_placed(router, own, order, n, ordered_by, now) for n in range(len(order))]
    placed = {channel.id for channel in order}
    lefts: list[float] = []
    for channel in table.of_model(model):
        found = None if channel.id in placed else refusal(channel, own, live, now)
        if found is not None:
            facts = _facts(router, model, channel, now)
            lines.append(Line(channel, None, found.code, _refused(found), None, facts))
            if found.standing is not None:
                lefts.append(found.standing.left_s)
    fallbacks = router.fallbacks.of(model, "failed")
    soonest = min(lefts) if lefts and not order else None
    return Explanation(ask.model, model, ask.group, ordered_by, tuple(lines), fallbacks, soonest)


def _placed(
    router: Router,
    ask: Ask,
    order: Sequence[Channel],
    index: int,
    ordered_by: Strategy | Literal["prefix"],
    now: float,
) -> Line:
    channel = order[index]
    tier = [other for other in order if other.priority == channel.priority]
    first = index == 0 or order[index - 1].priority != channel.priority
    loads = router.live.loads
    roomy = [other for other in tier if not loads.full(other, now)] or tier
    top = channel.priority == order[0].priority
    share = _share(channel, roomy) if top and ordered_by == "weighted" else None
    code: PlaceCode | Strategy
    if channel.weight <= 0 and len(tier) > 1 and not first:
        code, text = "weight_0", tr("weight 0: only when the others of its priority fail")
    elif ordered_by == "prefix" and not first and _owns(ask, tier, channel):
        code = "prefix_hot"
        text = tr("would keep this prompt's beginning, but has too much load")
    elif loads.full(channel, now):
        slots = loads.slots(channel)
        code, text = "full", tr("full: all of its {slots} slots are taken", slots=slots)
    elif not first:
        code, text = "next", tr("next, with priority {priority}", priority=channel.priority)
    else:
        code, text = ordered_by, _why_first(router, ask.model, channel, ordered_by, share, now)
    facts = _facts(router, ask.model, channel, now)
    return Line(channel, index + 1, code, text, share, facts)


def _why_first(
    router: Router,
    model: str,
    channel: Channel,
    ordered_by: Strategy | Literal["prefix"],
    share: float | None,
    now: float,
) -> Text:
    loads = router.live.loads
    if ordered_by == "prefix":
        return tr("most likely has this prompt's beginning in its cache")
    if ordered_by == "least_busy":
        return tr("the least busy: {n} requests in flight", n=loads.running(channel.id, now))
    if ordered_by == "latency":
        ttft = router.live.latencies.ttft_s(channel.id, model, now)
        if ttft is None:
            return tr("not measured lately, so it is tried")
        return tr("the fastest: first token after {ttft} s", ttft=f"{ttft:.2f}")
    if ordered_by == "cost":
        price = router.live.prices.get((channel.id, model))
        if price is None:
            return tr("none has a price")
        return tr("the cheapest: {price} per million tokens", price=f"{price / 1e6:.6f}")
    if share is None:
        return tr("drawn by weight, if all of a higher priority fail")
    return tr("drawn by weight: first for {percent} % of the requests", percent=round(100 * share))


def _share(channel: Channel, tier: Sequence[Channel]) -> float:
    """How often a channel is first among those of a tier that have room."""
    if channel not in tier:
        return 0.0
    weights = sum(max(0, other.weight) for other in tier)
    return max(0, channel.weight) / weights if weights else 1 / len(tier)


def _owns(ask: Ask, tier: Sequence[Channel], channel: Channel) -> bool:
    return ask.prefix is not None and rendezvous(ask.prefix, tier)[0].id == channel.id


def _facts(router: Router, model: str, channel: Channel, now: float) -> dict[str, Any]:
    live = router.live
    return {
        "upstream_model": channel.models[model],
        "enabled": channel.enabled,
        "running": live.loads.running(channel.id, now),
        "slots": live.loads.slots(channel),
        "ttft_s": live.latencies.ttft_s(channel.id, model, now),
        "price_micro_per_mtok": live.prices.get((channel.id, model)),
        "breaker": _standing(live.breakers.standing(channel.id, model, now)),
        "keys": [
            {"id": key, **_standing(live.breakers.key_standing(channel.id, key, now))}
            for key in channel.key_ids
        ],
    }


def _standing(standing: Standing) -> dict[str, Any]:
    return {
        "state": standing.state,
        "reason": standing.reason,
        "left_s": round(standing.left_s, 3),
        "trips": standing.trips,
    }


def _refused(found: Refusal) -> Text:
    names = ", ".join(found.names)
    match found.code:
        case "disabled":
            return tr("disabled by {who}", who=names) if names else tr("disabled by hand")
        case "not_pinned":
            return tr("the request is pinned to the channel {id}", id=names)
        case "group":
            return tr("does not serve the group `{group}`", group=names)
        case "tag":
            return tr("does not carry the tag {names}", names=names)
        case "capability":
            return tr("cannot do {names}", names=names)
        case "excluded":
            return tr("has failed this request already")
        case "key_missing":
            return tr("needs a key and has none")
        case "keys_refused":
            return tr("no key can be used: {why}", why=_out(found.standing))
        case _:
            return tr("breaker: {why}", why=_out(found.standing))


def _out(standing: Standing | None) -> Text:
    if standing is None or standing.admits:
        return tr("has failed this request already")
    if standing.state == "half_open":
        return tr("half-open, its probe is under way")
    reason = tr("failures") if standing.reason is None else _REASONS[standing.reason]
    return tr("open ({reason}), tried again in {s} s", reason=reason, s=_rounded(standing.left_s))


_REASONS: dict[Reason, Text] = {
    "failures": tr("failures"),
    "error_rate": tr("too many errors"),
    "rate_limited": tr("rate limit"),
    "key_refused": tr("key refused"),
}


def _rounded(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}"
