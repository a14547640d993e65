"""Shared fixtures: a server on each database, and clients."""

import itertools

import pytest

import stubs  # noqa: F401  (first: the other modules import what it generates)
import postgres
from client import Client
from server import Server
from toggled.v1.access_service_pb2 import CreateTokenRequest, CreateUserRequest
from toggled.v1.feature_flag_pb2 import FeatureFlag
from toggled.v1.toggle_service_pb2 import CreateFeatureFlagRequest

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_url():
    with postgres.cluster() as (url, _):
        yield url


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def server(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else f"sqlite://{folder}/toggled.db"
    with Server(folder, "serve", "--listen", "127.0.0.1:0", "--database-url", url) as server:
        yield server


@pytest.fixture
def admin(server):
    """A client with every permission."""
    with Client(server.address, server.admin_token()) as client:
        yield client


@pytest.fixture
def anonymous(server):
    """A client without a token."""
    with Client(server.address, None) as client:
        yield client


@pytest.fixture
def fresh_key():
    """Generates unique keys. Keys with the same prefix sort in the order of their creation."""
    return lambda prefix="flag": f"{prefix}-{next(_numbers):06}"


@pytest.fixture
def flag(admin, fresh_key) -> FeatureFlag:
    """A new, disabled flag."""
    return admin.toggle.CreateFeatureFlag(CreateFeatureFlagRequest(key=fresh_key(), name="A flag")).feature_flag


@pytest.fixture
def reader_token(admin, fresh_key):
    """A token with no other permission than to read flags."""
    request = CreateUserRequest(email=f"{fresh_key('service')}@example.com", permissions=["view_feature_flags"])
    user = admin.access.CreateUser(request).user
    return admin.access.CreateToken(CreateTokenRequest(user_id=user.id, name="flags")).secret
