"""What the tests of packaging share with those of the clients: the stubs."""

import stubs  # noqa: F401  (others import what it generates)
