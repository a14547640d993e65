"""Prints a flag's value with OpenFeature, and each change of it, until Ctrl-C.

    python evaluate.py in-process|rpc|ofrep [KEY]
"""

import os
import sys
import time
from urllib.parse import urlsplit

import grpc
from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.contrib.provider.ofrep import OFREPProvider

RESOLVERS = {"in-process": ResolverType.IN_PROCESS, "rpc": ResolverType.RPC}


def flagd(mode, address, token):
    """Over gRPC. in-process holds all flags, and keeps their last values while the server is lost."""
    if tls := address.scheme == "https":
        authority = os.environ.get("TOGGLED_CA_CERTIFICATE")
        transport = grpc.ssl_channel_credentials(open(authority, "rb").read() if authority else None)
    else:
        transport = grpc.local_channel_credentials()
    return FlagdProvider(
        host=address.hostname,
        port=address.port,
        tls=tls,
        channel_credentials=grpc.composite_channel_credentials(transport, grpc.access_token_call_credentials(token)),
        resolver_type=RESOLVERS[mode],
        # A refused token is an error, not the last values for ever.
        fatal_status_codes=["UNAUTHENTICATED", "PERMISSION_DENIED"],
    )


def ofrep(address, token):
    """Over HTTP, with a call for each value. A private CA is named by REQUESTS_CA_BUNDLE."""
    return OFREPProvider(address.geturl(), headers_factory=lambda: {"authorization": f"Bearer {token}"})


def main(mode, key="checkout"):
    address = urlsplit(os.environ.get("TOGGLED_ADDR", "http://localhost:50051"))
    token = os.environ["TOGGLED_TOKEN"]
    api.set_provider_and_wait(ofrep(address, token) if mode == "ofrep" else flagd(mode, address, token))
    flags = api.get_client()

    shown = None
    while True:
        details = flags.get_boolean_details(key, False)
        # A service would only use details.value: the flag's, or on an error the default.
        value = f"{key}: {'on' if details.value else 'off'}"
        if details.error_code:
            value += f" by default, {details.error_code.value}: {details.error_message}"
        if value != shown:
            print(value, flush=True)
            shown = value
        time.sleep(0.2)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        api.shutdown()
