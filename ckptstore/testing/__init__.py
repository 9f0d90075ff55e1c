"""Fault-injecting disks and backends, and conformance suites for a backend of your own.

A suite runs on your backend once its fixture makes one:

    class TestMyBackend(BackendTests):
        @pytest.fixture
        def backend(self):
            return MyBackend(...)
"""

from ckptstore.testing.backends import CrashingBackend
from ckptstore.testing.disks import Crash, CrashingDisk, PowerCutDisk
from ckptstore.testing.suites import BackendTests, CatalogTests, SideDoor, manifest_bytes

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
