"""Applications that read flags through OpenFeature's published providers."""

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

# The modes of flagd's provider: a call per value, with a cache, or a local copy of all flags.
MODES = [ResolverType.RPC, ResolverType.IN_PROCESS]

# How many seconds to wait for asynchronous events.
TIMEOUT = 60

_numbers = itertools.count(1)


def wait_until(holds, what: str) -> None:
    """Waits for a condition, and fails after TIMEOUT."""
    deadline = time.monotonic() + TIMEOUT
    while not holds():
        assert time.monotonic() < deadline, f"timed out after {TIMEOUT} s waiting for {what}"
        time.sleep(0.01)


def flagd(address: str, mode: ResolverType, token: str | None, **options) -> FlagdProvider:
    host, port = address.split(":")
    if token is not None:
        # gRPC sends a token only over trusted channels: TLS, or local credentials on this machine.
        bearer = grpc.access_token_call_credentials(token)
        options["channel_credentials"] = grpc.composite_channel_credentials(grpc.local_channel_credentials(), bearer)
    # A long deadline for slow machines, and quick retries after a broken connection.
    timeouts = {"deadline_ms": 10_000, "retry_backoff_ms": 50, "retry_backoff_max_ms": 100}
    return FlagdProvider(host=host, port=int(port), resolver_type=mode, **timeouts | options)


def ofrep(address: str, token: str | None) -> OFREPProvider:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return OFREPProvider(f"http://{address}", headers_factory=lambda: headers)


class Application:
    """Reads flags, and records the events of its provider."""

    def __init__(self, knows_disabled: bool = True):
        # Whether its provider knows answers without a variant. OFREP's does not: it makes an error of them.
        self.knows_disabled = knows_disabled
        self.domain = f"application-{next(_numbers)}"
        self.client = api.get_client(self.domain)
        # The keys of every change event.
        self.changes: list[list[str]] = []
        self.client.add_handler(
            ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, lambda event: self.changes.append(event.flags_changed or [])
        )

    def value(self, key: str) -> bool:
        """The value of a flag that must exist."""
        details = self.details(key)
        assert details.error_code is None, details
        return details.value

    def details(self, key: str, default: bool = False):
        return self.client.get_boolean_details(key, default)

    def expect_event(self, key: str, act) -> None:
        """Makes a change, and waits for the provider's event about this flag."""

        def events():
            return sum(key in keys for keys in self.changes)

        before = events()
        act()
        wait_until(lambda: events() > before, f"the change event of {key}")

    def is_missing(self, key: str) -> bool:
        """Whether the flag reads as not found, with either default."""
        return self._reads_default(key, "ERROR", "FLAG_NOT_FOUND")

    def is_archived(self, key: str) -> bool:
        """Whether the flag reads as archived, with either default: no error, and no variant."""
        if not self.knows_disabled:
            return self._reads_default(key, "ERROR", "GENERAL")
        return self._reads_default(key, "DISABLED", None)

    def _reads_default(self, key, reason, error_code) -> bool:
        found = [self.details(key, default) for default in (True, False)]
        read = [(details.value, details.variant or None, details.reason, details.error_code) for details in found]
        return read == [(default, None, reason, error_code) for default in (True, False)]


@contextmanager
def reading(provider):
    """An application whose provider is ready."""
    application = Application(knows_disabled=not isinstance(provider, OFREPProvider))
    try:
        api.set_provider_and_wait(provider, application.domain)
        if isinstance(provider, FlagdProvider):
            # The first event lists all flags. Later events are about changes.
            wait_until(lambda: application.changes, "the first event with all flags")
        yield application
    finally:
        api.clear_providers()
        # The provider leaves timers behind, for which Python would wait at exit.
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.cancel()
