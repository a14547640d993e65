"""Health and reflection, which need no token."""

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from client import SERVICES


@pytest.mark.parametrize("service", ["", *SERVICES])
def test_health_is_serving(anonymous, service):
    answer = HealthStub(anonymous.channel).Check(HealthCheckRequest(service=service))
    assert answer.status == HealthCheckResponse.SERVING


def test_health_of_unknown_service_is_not_found(anonymous):
    with pytest.raises(grpc.RpcError) as caught:
        HealthStub(anonymous.channel).Check(HealthCheckRequest(service="toggled.v1.NoSuchService"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection_lists_and_describes_services(server):
    # This library needs a plain channel, without deadlines and metadata.
    with grpc.insecure_channel(server.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(SERVICES) <= set(database.get_services())
        service = DescriptorPool(database).FindServiceByName("toggled.v1.ToggleService")
        assert "ToggleFeatureFlag" in service.methods_by_name
