"""Flips a flag, reads it, then watches it and follows its audit log until Ctrl-C."""

import asyncio
import os
import random
import sys
import uuid
from urllib.parse import urlsplit

import grpc
from toggled.v1.audit_service_pb2 import StreamAuditLogsRequest
from toggled.v1.audit_service_pb2_grpc import AuditServiceStub
from toggled.v1.feature_flag_pb2 import FEATURE_FLAG_STATUS_ENABLED
from toggled.v1.toggle_service_pb2 import GetFeatureFlagRequest, ToggleFeatureFlagRequest, WatchFeatureFlagsRequest
from toggled.v1.toggle_service_pb2_grpc import ToggleServiceStub

Code = grpc.StatusCode
# After these a call is repeated. The change may have been made, so a repeated one needs the same request_id.
RETRYABLE = {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.UNKNOWN, Code.INTERNAL, Code.CANCELLED}
# The log no longer has the cursor: it was trimmed, or restored from a backup.
CURSOR_LOST = {Code.OUT_OF_RANGE, Code.FAILED_PRECONDITION}


def connect():
    """A channel to TOGGLED_ADDR that sends TOGGLED_TOKEN with each call."""
    address = urlsplit(os.environ.get("TOGGLED_ADDR", "http://localhost:50051"))
    if address.scheme == "https":
        authority = os.environ.get("TOGGLED_CA_CERTIFICATE")
        transport = grpc.ssl_channel_credentials(open(authority, "rb").read() if authority else None)
    else:
        transport = grpc.local_channel_credentials()
    token = grpc.access_token_call_credentials(os.environ["TOGGLED_TOKEN"])
    # Pings find a lost connection, on which a stream would wait for ever.
    options = [("grpc.keepalive_time_ms", 30_000), ("grpc.max_reconnect_backoff_ms", 5_000)]
    return grpc.aio.secure_channel(address.netloc, grpc.composite_channel_credentials(transport, token), options)


def check(error):
    """Reports an error, and raises it if no retry can mend it."""
    if error.code() not in RETRYABLE:
        raise error
    print(f"{error.code().name}: {error.details()}; retrying", file=sys.stderr, flush=True)


async def pause(attempt):
    """Waits before the next attempt, up to 5 seconds."""
    await asyncio.sleep(random.uniform(0.5, 1) * min(5, 0.2 * 2**attempt))


async def retry(call, request, attempts=20):
    """Repeats a call until it succeeds."""
    for attempt in range(attempts):
        try:
            return await call(request, timeout=10)
        except grpc.aio.AioRpcError as error:
            check(error)
        await pause(attempt)
    raise TimeoutError(f"no answer after {attempts} attempts")


async def resume(stream, request, handle):
    """Reads a stream for ever. When it breaks, opens it again with the request, which holds its cursor."""
    attempt = 0
    while True:
        try:
            async for message in stream(request):
                handle(message)
                attempt = 0
        except grpc.aio.AioRpcError as error:
            check(error)
        await pause(attempt)
        attempt += 1


def describe(flag):
    status = "enabled" if flag.status == FEATURE_FLAG_STATUS_ENABLED else "disabled"
    return f"{flag.key}: {status} at revision {flag.revision}"


async def watch(toggles, key):
    """Prints the flag's state, and each change of it."""
    while True:
        request = WatchFeatureFlagsRequest(keys=[key])

        def changed(message):
            for flag in message.feature_flags:
                print("watched", describe(flag), flush=True)
            request.after_revision, request.after_hash, request.log_id = message.revision, message.hash, message.log_id

        try:
            await resume(toggles.WatchFeatureFlags, request, changed)
        except grpc.aio.AioRpcError as error:
            if error.code() not in CURSOR_LOST:
                raise


async def follow(audits, flag_id):
    """Prints the flag's audit entries, and each new one. Ends if the log is not the one it was."""
    request = StreamAuditLogsRequest(entity_id=flag_id, follow=True)

    def appended(message):
        for entry in message.items:
            print(f"audited {entry.entity_key}: {entry.action_type} at revision {entry.revision} by {entry.user_email}", flush=True)
        request.after_revision, request.after_hash, request.log_id = message.through_revision, message.through_hash, message.log_id

    await resume(audits.StreamAuditLogs, request, appended)


async def main(key):
    async with connect() as channel:
        toggles, audits = ToggleServiceStub(channel), AuditServiceStub(channel)
        # All attempts have one request_id, so the flag is flipped once.
        flip = ToggleFeatureFlagRequest(key=key, reason="an example", request_id=str(uuid.uuid4()))
        flipped = await retry(toggles.ToggleFeatureFlag, flip)
        print("flipped", describe(flipped.feature_flag), flush=True)
        # Another server may answer: min_revision makes it wait for the flip.
        read = await retry(toggles.GetFeatureFlag, GetFeatureFlagRequest(key=key, min_revision=flipped.revision))
        print("read", describe(read.feature_flag), flush=True)
        await asyncio.gather(watch(toggles, key), follow(audits, read.feature_flag.id))


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "checkout"))
    except KeyboardInterrupt:
        pass
