"""Generates the stubs, as for the tests of the clients."""

import stubs  # noqa: F401  (other modules import what it generates)
