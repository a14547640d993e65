"""A client of the service, made from grpcio and the generated stubs."""

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from toggled.v1.access_service_pb2_grpc import AccessServiceStub
from toggled.v1.audit_service_pb2_grpc import AuditServiceStub
from toggled.v1.toggle_service_pb2_grpc import ToggleServiceStub

# Seconds; longer than any call takes, so that a hanging call fails.
DEADLINE = 30

SERVICES = [
    "flagd.evaluation.v1.Service",
    "flagd.evaluation.v2.Service",
    "flagd.sync.v1.FlagSyncService",
    "toggled.v1.AccessService",
    "toggled.v1.AuditService",
    "toggled.v1.ToggleService",
]


class Client:
    """One channel with one token (or none) on every call, and a stub for each service. A context manager."""

    def __init__(self, address: str, token: str | None):
        self._plain = grpc.insecure_channel(address)
        self.channel = grpc.intercept_channel(self._plain, _AddToken(token))
        self.access = AccessServiceStub(self.channel)
        self.audit = AuditServiceStub(self.channel)
        self.toggle = ToggleServiceStub(self.channel)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self._plain.close()


class _AddToken(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    def __init__(self, token: str | None):
        self._metadata = [] if token is None else [("authorization", f"Bearer {token}")]

    def _add(self, proceed, details, request):
        timeout = DEADLINE if details.timeout is None else details.timeout
        metadata = [*(details.metadata or []), *self._metadata]
        return proceed(details._replace(timeout=timeout, metadata=metadata), request)

    intercept_unary_unary = intercept_unary_stream = _add


class Refusal:
    """The error of a failed call, with decoded details."""

    def __init__(self, error: grpc.RpcError):
        status = rpc_status.from_call(error)
        assert status is not None, f"no details in {error}"
        self.code = error.code()
        self.message = status.message
        details = {detail.TypeName(): detail for detail in status.details}
        info = error_details_pb2.ErrorInfo()
        assert details["google.rpc.ErrorInfo"].Unpack(info)
        assert info.domain == "toggled"
        self.reason = info.reason
        self.metadata = dict(info.metadata)
        self._details = details

    def detail(self, kind):
        """The detail of this type, which must exist."""
        found = kind()
        assert self._details[kind.DESCRIPTOR.full_name].Unpack(found)
        return found

    def fields(self) -> set[str]:
        """The fields of an INVALID_FIELD error."""
        return {violation.field for violation in self.detail(error_details_pb2.BadRequest).field_violations}


def refusal(method, request) -> Refusal:
    """Calls a method that must fail."""
    try:
        answer = method(request)
        # A stream fails when it is read.
        if isinstance(answer, grpc.Call):
            answer = list(answer)
    except grpc.RpcError as error:
        return Refusal(error)
    raise AssertionError(f"the call did not fail: {answer}")
