"""Reads through every OpenFeature provider, on both databases."""

import pytest

from applications import MODES, flagd, ofrep, reading, wait_until
from toggled.v1 import toggle_service_pb2 as toggle

PROVIDERS = {f"flagd {mode.value}": (lambda *to, mode=mode: flagd(to[0], mode, to[1])) for mode in MODES} | {"ofrep": ofrep}


@pytest.fixture(params=PROVIDERS.values(), ids=PROVIDERS.keys())
def application(request, server, flag, reader_token):
    with reading(request.param(server.address, reader_token)) as application:
        yield application


def test_flag_is_read_with_its_variant(admin, application, flag):
    off = application.details(flag.key, True)
    assert (off.value, off.variant, off.reason, off.error_code) == (False, "off", "STATIC", None)

    admin.toggle.EnableFeatureFlag(toggle.EnableFeatureFlagRequest(id=flag.id))

    wait_until(lambda: application.value(flag.key), "the flip")
    on = application.details(flag.key)
    assert (on.value, on.variant, on.error_code) == (True, "on", None)
    assert on.reason in ("STATIC", "CACHED")


def test_missing_flag_is_an_error_and_archived_one_is_disabled(admin, application, flag, fresh_key):
    assert application.is_missing(fresh_key("missing"))

    admin.toggle.ArchiveFeatureFlag(toggle.ArchiveFeatureFlagRequest(id=flag.id))
    wait_until(lambda: application.is_archived(flag.key), "the archived flag to be disabled")
