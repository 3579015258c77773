"""What a race can be told: era, remedies, timing; and which combinations make no sense.

Owns: `Options`, the names and defaults of delays, and `refuse`, which says in one line why a combination is refused instead of running something else.
Times are seconds. Option names that exist upstream carry upstream's name and default.
"""
from __future__ import annotations

import msgspec

from virga.lab import kilo_rules as rules

# Mean seconds of everything that takes time. `batch` is the notifier's send_events_interval and never varies; `poll` is what an agent needs from its
# look to its first call; `teardown` is what the compute host does between the end of the tap and its next save (volumes, filters, files).
DELAYS: dict[str, float] = {"rpc": 0.01, "save": 0.01, "destroy": 0.3, "teardown": 0.5, "lock": 0.1, "copy": 1.0, "launch": 0.2, "poll": 0.03, "batch": 2.0}


class Mistake(ValueError):
    """A combination of options that is refused; the message is one line for a person."""


class Options(msgspec.Struct, frozen=True):
    """One row of the table."""

    era: str = rules.KILO_0
    nonfatal: bool = False
    bind_first: bool = False
    polling_interval: float = 2.0
    vif_plugging_timeout: float = 300.0
    rpc_response_timeout: float = 60.0
    jitter: float = 0.5
    delays: dict[str, float] = msgspec.field(default_factory=lambda: dict(DELAYS))
    changed: rules.Rules | None = None  # a museum piece brings its own rules

    def rules(self) -> rules.Rules:
        """The era's rules with the remedies applied."""
        if self.changed is not None:
            return self.changed
        era = rules.ERAS[self.era]
        return msgspec.structs.replace(era, fatal=era.fatal and not self.nonfatal, rebind=rules.IN_SETUP if self.bind_first else era.rebind)

    @property
    def name(self) -> str:
        return self.era + (" --nonfatal" if self.nonfatal else "") + (" --bind-first" if self.bind_first else "")


def refuse(options: Options, given: frozenset[str] = frozenset()) -> None:
    """Raises Mistake. `given` names the options the user typed, for those that would change nothing."""
    if options.era not in rules.ALL_ERAS:
        raise Mistake(f"--era {options.era}: there is no such era; choose one of {', '.join(rules.ALL_ERAS)}")
    if options.era == rules.VIRGA:
        for name in ("nonfatal", "bind_first", "polling_interval", "vif_plugging_timeout", "delays"):
            if name in given:
                raise Mistake(f"--{name.replace('_', '-')} says nothing about --era virga: it has no waiter, no single binding and no polling agent")
        return
    era = rules.ERAS[options.era]
    if options.nonfatal and not era.waits_on_revert:
        raise Mistake(f"--nonfatal changes nothing in --era {options.era}: it does not wait on revert")
    if options.bind_first and era.rebind == rules.FIRST:
        raise Mistake(f"--bind-first changes nothing in --era {options.era}: it moves the binding first already")
    if options.nonfatal and not options.vif_plugging_timeout:
        raise Mistake("--nonfatal with --vif-plugging-timeout 0: a timeout of 0 means that nobody waits, so nothing can time out")
    if options.polling_interval <= 0:
        raise Mistake("--polling-interval must be above 0 seconds")
    if options.vif_plugging_timeout < 0:
        raise Mistake("--vif-plugging-timeout must not be below 0 seconds")
    for name, value in options.delays.items():
        if name not in DELAYS:
            raise Mistake(f"--delay {name}: there is no such delay; choose one of {', '.join(DELAYS)}")
        if value < 0:
            raise Mistake(f"--delay {name}={value:g}: a delay must not be below 0 seconds")
