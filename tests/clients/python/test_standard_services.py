"""Health and reflection: for everybody, without a token."""

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from client import SERVICES


@pytest.mark.parametrize("service", ["", *SERVICES])
def test_health_is_serving(stranger, service):
    answer = HealthStub(stranger.channel).Check(HealthCheckRequest(service=service))
    assert answer.status == HealthCheckResponse.SERVING


def test_health_does_not_know_other_services(stranger):
    with pytest.raises(grpc.RpcError) as caught:
        HealthStub(stranger.channel).Check(HealthCheckRequest(service="toggled.v1.NoSuchService"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection_lists_and_describes_the_services(server):
    # Its calls have no deadline and no metadata: the channel is a plain one.
    with grpc.insecure_channel(server.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(SERVICES) <= set(database.get_services())
        service = DescriptorPool(database).FindServiceByName("toggled.v1.ToggleService")
        assert "ToggleFeatureFlag" in service.methods_by_name
