"""Tests of the gateway: real TLS, real sockets, real processes."""
