"""Other people's versions: the lowest and the newest of all that ckptstore stands on, tried in earnest.

``python -m tests.compat.clients`` makes an environment for each row of `ENVIRONMENTS` in .scratch/clients,
runs ``client_kit.py`` there against each place that the row names, and prints the table of
``docs/testing.md``. With names, only those; with ``--quick``, only the oldest S3 client, which is passed over
where it doesn't install. Lowest versions are read from pyproject.toml: a floor that doesn't hold fails here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.servers import STARTERS, Server

ROOT = Path(__file__).parents[2]
SCRATCH = ROOT / ".scratch" / "clients"
VERSIONS = Path.home() / ".pyenv" / "versions"
KIT = "tests/compat/client_kit.py"
SHOWN = ("numpy", "fsspec", "s3fs", "aiobotocore", "gcsfs", "obstore", "click", "cryptography", "onnx")
S3 = ("moto", "seaweedfs")
GCS = ("fake-gcs",)
HERE = ("memory",)


class Environment(NamedTuple):
    """One Python with ckptstore, its extras, and what else pip is asked for."""

    name: str
    extras: str
    places: Sequence[str]
    pins: Sequence[str] = ()
    python: str = "3.11"
    lowest: bool = False
    """Whether all that pyproject.toml asks for is installed at its floor."""

    @property
    def directory(self) -> Path:
        return SCRATCH / self.name.replace(" ", "-")

    @property
    def executable(self) -> Path:
        return self.directory / "bin" / "python"

    def wanted(self) -> list[str]:
        """What pip is asked for."""
        project = f"{ROOT}[{self.extras}]" if self.extras else str(ROOT)
        floors = floors_of(self.extras) if self.lowest else []
        return ["--editable", project, *floors, *self.pins, "pytest>=8.3", "pytest-timeout>=2.3"]


OLDEST_S3 = Environment("s3 lowest", "s3", S3, lowest=True)
ENVIRONMENTS = [
    OLDEST_S3,
    Environment("aiobotocore 2.25", "s3", S3, ["aiobotocore==2.25.*"]),
    Environment("aiobotocore 3.2", "s3", S3, ["aiobotocore==3.2.*"]),
    Environment("aiobotocore 3.7", "s3", S3, ["aiobotocore==3.7.*"]),
    Environment("aiobotocore 3.8", "s3", S3, ["aiobotocore==3.8.*"]),
    Environment("s3 newest", "s3", S3),
    Environment("s3 newest, Python 3.12", "s3", S3, python="3.12"),
    Environment("s3 newest, Python 3.13", "s3", S3, python="3.13"),
    Environment("gcs lowest", "gcs", GCS, lowest=True),
    Environment("gcs newest", "gcs", GCS),
    Environment("gcs newest, Python 3.12", "gcs", GCS, python="3.12"),
    Environment("gcs newest, Python 3.13", "gcs", GCS, python="3.13"),
    Environment("fast lowest", "s3,fast", S3, lowest=True),
    Environment("fast newest", "s3,gcs,fast", (*S3, *GCS)),
    Environment("no extra, lowest", "", HERE, lowest=True),
    Environment("no extra, newest", "", HERE),
    Environment("no extra, Python 3.12", "", HERE, python="3.12"),
    Environment("no extra, Python 3.13", "", HERE, python="3.13"),
    Environment("cli lowest", "cli", HERE, lowest=True),
    Environment("cli newest", "cli", HERE),
    Environment("sign lowest", "sign", HERE, lowest=True),
    Environment("sign newest", "sign", HERE),
    Environment("export lowest", "export", HERE, lowest=True),
    Environment("export newest", "export", HERE),
    Environment("onnx lowest", "onnx", HERE, lowest=True),
    Environment("onnx newest", "onnx", HERE),
    Environment("all, fast", "all,fast", (*S3, *GCS)),
]


def floors_of(extras: str) -> list[str]:
    """What pyproject.toml asks for with these `extras`, each pinned to its floor."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in filter(None, extras.split(",")):
        wanted += project["optional-dependencies"][extra]
    floors: dict[str, str] = {}
    for requirement in wanted:
        name, floor = re.fullmatch(r"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)(?:,.*)?", requirement).groups()  # type: ignore[union-attr]
        newest = max(floor, floors.get(name, floor), key=lambda text: [int(part) for part in text.split(".")])
        floors[name] = newest
    if floors.keys() & {"s3fs", "gcsfs"}:
        del floors["fsspec"]  # each of these takes one release of it alone
    return [f"{name}=={floor}" for name, floor in floors.items()]


def prepare(environment: Environment) -> str:
    """Make the environment; returns why it could not be made, or nothing."""
    found = sorted(VERSIONS.glob(f"{environment.python}.*/bin/python"))
    if sys.version_info[:2] == tuple(map(int, environment.python.split("."))):
        found = [Path(sys.executable)]
    if not found:
        return f"no Python {environment.python} below {VERSIONS}"
    wanted = environment.wanted()
    ready = environment.directory / ".ready"
    if ready.exists() and ready.read_text() == repr(wanted):
        return ""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    made = subprocess.run([found[-1], "-m", "venv", "--clear", environment.directory], check=False)
    if made.returncode:
        return f"{found[-1]} makes no virtual environments"
    install = [str(environment.executable), "-m", "pip", "install", "--quiet", "--no-compile", *wanted]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        why: str = (said or done.stderr.splitlines() or ["pip failed"])[0]
        return why.removeprefix("ERROR: ")
    ready.write_text(repr(wanted))
    return ""


def installed(environment: Environment) -> str:
    """The versions of what matters, as they were installed."""
    ask = (
        "import importlib.metadata as m, json, platform;"
        "print(json.dumps([platform.python_version(), {d.name: d.version for d in m.distributions()}]))"
    )
    python, versions = json.loads(subprocess.check_output([environment.executable, "-c", ask], text=True))
    there = [f"{name} {versions[name]}" for name in SHOWN if name in versions]
    return f"Python {python}: {', '.join(there)}"


class Result(NamedTuple):
    """What came of the kit in one environment on one place."""

    passed: int
    failed: list[str]
    skipped: int


def run_kit(environment: Environment, server: Server | None) -> Result:
    """Run the kit there, on `server` or on what lies in this process."""
    report = environment.directory / "report.xml"
    report.unlink(missing_ok=True)
    place = {}
    if server is not None:
        place = {
            "CKPTSTORE_TEST_URL": f"{server.scheme}://{server.new_bucket()}",
            "CKPTSTORE_TEST_OPTIONS": json.dumps(server.options),
        }
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "GOOGLE_"))}
    env |= {"AWS_EC2_METADATA_DISABLED": "true", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false", **place}
    env.pop("PYTHONPATH", None)
    command = [str(environment.executable), "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider"]
    # Old clients warn of much that is not ours.
    command += ["-o", "filterwarnings=default", f"--junitxml={report}", KIT]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    (environment.directory / f"{server.name if server else 'memory'}.log").write_text(
        done.stdout + done.stderr
    )
    if not report.exists():
        return Result(0, [(done.stdout + done.stderr).strip().splitlines()[-1]], 0)
    passed, skipped = 0, 0
    failed: list[str] = []
    for case in ET.parse(report).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            failed.append(case.attrib["name"])
        elif "skipped" in kinds:
            skipped += 1
        else:
            passed += 1
    return Result(passed, failed, skipped)


@contextlib.contextmanager
def servers() -> Iterator[dict[str, Server]]:
    """Starts each when it is first asked for."""
    with contextlib.ExitStack() as stack:

        class Started(dict[str, Server]):
            def __missing__(self, name: str) -> Server:
                self[name] = stack.enter_context(STARTERS[name]())
                return self[name]

        yield Started()


def run(environments: Sequence[Environment], skip: bool) -> int:
    """Print the table, a line when it is known; returns the exit code."""
    print(
        "| asked for | installed | place | passed | failed | skipped |\n|---|---|---|---|---|---|", flush=True
    )
    bad = False
    with servers() as running:
        for environment in environments:
            why = prepare(environment)
            if why:
                word = "SKIPPED" if skip or why.startswith("no Python") else "not installable"
                bad = bad or word != "SKIPPED"
                print(f"| {environment.name} | {word}: {why} | | | | |", flush=True)
                continue
            for place in environment.places:
                result = run_kit(environment, None if place == "memory" else running[place])
                bad = bad or bool(result.failed) or not result.passed
                counts = f"{result.passed} | {len(result.failed)} | {result.skipped}"
                print(f"| {environment.name} | {installed(environment)} | {place} | {counts} |", flush=True)
                for name in result.failed:
                    print(f"  FAILED {environment.name}, {place}: {name}", file=sys.stderr, flush=True)
    return int(bad)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of environments, or what they begin with; all by default")
    parser.add_argument("--quick", action="store_true", help="the oldest S3 client alone")
    parser.add_argument("--first", action="store_true", help="only the first place of each")
    args = parser.parse_args()
    chosen = [OLDEST_S3._replace(places=S3[:1])] if args.quick else ENVIRONMENTS
    if args.names:
        chosen = [one for one in ENVIRONMENTS if one.name.startswith(tuple(args.names))]
    return run([one._replace(places=one.places[: 1 if args.first else None]) for one in chosen], args.quick)


if __name__ == "__main__":
    sys.exit(main())
