"""Applications that read flags through OpenFeature, with the providers as they are published."""

import itertools
import threading
import time
from contextlib import contextmanager

import grpc
from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.event import ProviderEvent

# How flagd's provider reads: by a call for each value, which it caches, or from a copy of all flags.
MODES = [ResolverType.RPC, ResolverType.IN_PROCESS]

# How long something may take that happens by itself.
PATIENCE = 60

_numbers = itertools.count(1)


def until(holds, what: str) -> None:
    """Waits for a condition; fails when it does not come to hold."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"waited {PATIENCE} s in vain: {what}"
        time.sleep(0.01)


def flagd(address: str, mode: ResolverType, token: str | None, **options) -> FlagdProvider:
    host, port = address.split(":")
    if token is not None:
        # gRPC gives a token only to a channel that it trusts: TLS, or this one to the own machine.
        bearer = grpc.access_token_call_credentials(token)
        options["channel_credentials"] = grpc.composite_channel_credentials(grpc.local_channel_credentials(), bearer)
    # The longest call, for slow machines, and soon again after a broken connection.
    patience = {"deadline_ms": 10_000, "retry_backoff_ms": 50, "retry_backoff_max_ms": 100}
    return FlagdProvider(host=host, port=int(port), resolver_type=mode, **patience | options)


def ofrep(address: str, token: str | None) -> OFREPProvider:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return OFREPProvider(f"http://{address}", headers_factory=lambda: headers)


class Application:
    """Reads flags, and keeps what its provider tells."""

    def __init__(self):
        self.domain = f"application-{next(_numbers)}"
        self.client = api.get_client(self.domain)
        # The keys of every change event.
        self.changes: list[list[str]] = []
        self.client.add_handler(
            ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, lambda event: self.changes.append(event.flags_changed or [])
        )

    def value(self, key: str) -> bool:
        """The flag's value, which must be there."""
        details = self.details(key)
        assert details.error_code is None, details
        return details.value

    def details(self, key: str, default: bool = False):
        return self.client.get_boolean_details(key, default)

    def is_told(self, key: str, act) -> None:
        """Does what changes this flag; returns when the provider has told so."""

        def told():
            return sum(key in keys for keys in self.changes)

        before = told()
        act()
        until(lambda: told() > before, f"the change of {key}")

    def misses(self, key: str) -> bool:
        """Whether there is no such flag, for either default."""
        found = [self.details(key, default) for default in (True, False)]
        return [(details.value, details.error_code) for details in found] == [
            (True, "FLAG_NOT_FOUND"),
            (False, "FLAG_NOT_FOUND"),
        ]


@contextmanager
def reading(provider):
    """An application with this provider, ready."""
    application = Application()
    try:
        api.set_provider_and_wait(provider, application.domain)
        if isinstance(provider, FlagdProvider):
            # All flags come first: from here on a change event is that of a change.
            until(lambda: application.changes, "the first word about all flags")
        yield application
    finally:
        api.clear_providers()
        # The provider leaves some of its own behind, and Python would wait for them at its end.
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.cancel()
