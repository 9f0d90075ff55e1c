"""Fault-injecting disks and backends, and conformance suites for a backend of your own."""

from ckptstore.testing.suites import (
    BackendTests,
    CatalogTests,
    Crash,
    CrashingBackend,
    CrashingDisk,
    PowerCutDisk,
    SideDoor,
    manifest_bytes,
)

__all__ = [
    "BackendTests",
    "CatalogTests",
    "Crash",
    "CrashingBackend",
    "CrashingDisk",
    "PowerCutDisk",
    "SideDoor",
    "manifest_bytes",
]
