"""Routing: where a request may go, what a failure means, and why. No I/O; time is passed in.

What the relay holds, one of each per process:

    live = Live(Breakers(random.random))          # what is known of the channels at this moment
    router = Router(ChannelTable(channels), live, RetryBudget(), random.random,
                    rules=RoutingRules("least_busy"), fallbacks=Fallbacks(...))

The table and the router are values: when channels, rules or fallbacks change, make new ones around
the same `live` and budget (`dataclasses.replace(router, table=ChannelTable(channels))`). A request
that is under way keeps the ones it began with.

For each request:

    model = router.table.resolve(asked)           # None: 404
    arm = split.arm_of(user_id)                   # canary, A/B: arm.model instead, if not None
    ask = Ask(model, group=user.group, prefix=prefix_hash(body), needs=frozenset({"tools"}))
    attempts = Attempts(router, ask, now)         # its docstring shows the loop

`Attempts.next` gives a `Sending` (target and permit), a `Pause`, or None. It picks the channel,
takes the breaker's permit, counts the load, remembers who failed, pays from the retry budget, backs
off and goes on to fallback models. What it needs to be told:

* `answered(ttft_s, now)` at the upstream's first byte of an answer that is no error;
* `failed(Failure(...), now)` for everything else, also when an answer breaks off later.
  `first_byte` says whether the *client* has got anything: then nothing is sent again. Fill `codes`
  with the error's `code` and `type` in OpenAI's words (an adapter translates others), and
  `retry_after_s` with `retry_after(header, now)`;
* `close()` in a `finally`, always: it gives back load and probe, also when the client left.

When `next` gives None: `gave_up` says why. `attempts.last` holds the failure whose status the
client should see; for `no_channel` without one answer 503 (429 if the breakers' reason is a rate
limit) with Retry-After from `come_back_s`.

`now` is UTC seconds everywhere (`time.time()`), never monotonic: breakers travel between machines.

Every second or so, with several processes: put `live.breakers.changes()` into a shared store, then
`live.breakers.load(everything in it, now)`. States are small dicts by name and the last change
wins: where two write at once the store must keep the `later` one. Half-open is each process's own.
Clocks may differ by a minute. Let the states expire after an hour. Every few minutes:
`live.breakers.prune(now)`. When an administrator repairs or re-enables a channel:
`live.breakers.reset(channel_id, now)`. `Channel.enabled` is a human's word and nothing here
changes it.

Where upstreams tell their load (`/slots`, `/metrics`): `live.loads.report(...)`. For the strategy
`cost`: set `live.prices`.

`explain(router, ask, now)` answers "where would this go, and why" as JSON or text, without effect.
`Mirror.takes(request_id)` says whether to send a copy; send it with an `Attempts` of its own over a
router with another budget, so that copies never use up the retries of real requests.

`plan` and `resolve_model` are the first gateway's: priority and weight only.
"""

from __future__ import annotations

from slipway.gateway.routing.attempts import Attempts, GaveUp, Pause, Router, Sending
from slipway.gateway.routing.breaker import BreakerRules, Standing, later
from slipway.gateway.routing.breakers import Breakers, Permit
from slipway.gateway.routing.channel import (
    LOCAL_KINDS,
    Channel,
    ChannelKind,
    Target,
    resolve_model,
)
from slipway.gateway.routing.explain import Explanation, explain
from slipway.gateway.routing.live import Live
from slipway.gateway.routing.prefix import prefix_hash
from slipway.gateway.routing.retry import Failure, RetryBudget, RetryPolicy, judge, retry_after
from slipway.gateway.routing.strategy import Ask, RoutingRules, Strategy, plan, route
from slipway.gateway.routing.table import ChannelTable
from slipway.gateway.routing.variants import Arm, Fallbacks, Mirror, Split

__all__ = [
    "LOCAL_KINDS",
    "Arm",
    "Ask",
    "Attempts",
    "BreakerRules",
    "Breakers",
    "Channel",
    "ChannelKind",
    "ChannelTable",
    "Explanation",
    "Failure",
    "Fallbacks",
    "GaveUp",
    "Live",
    "Mirror",
    "Pause",
    "Permit",
    "RetryBudget",
    "RetryPolicy",
    "Router",
    "RoutingRules",
    "Sending",
    "Split",
    "Standing",
    "Strategy",
    "Target",
    "explain",
    "judge",
    "later",
    "plan",
    "prefix_hash",
    "resolve_model",
    "retry_after",
    "route",
]
