"""The wheel holds what the program needs, and takes no name that another distribution may want."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ROOTS = {
    "curtaild": "daemon",
    "curtaild_drivers": "drivers",
    "curtaild_emulator": "drivers",
    "curtaild_config": "config",
}

OPERATOR_FILES = (
    "site.example.toml",
    "mosquitto/mosquitto.conf",
    "mosquitto/acl",
    "prometheus/prometheus.yml",
    "prometheus/curtaild.rules.yml",
    "grafana/dashboards/site.json",
    "systemd/curtaild.service",
    "systemd/curtaild-gpu.conf",
    "hooks/slurm",
)
"""Under share/curtaild of the environment it is installed in: what an operator puts in place beside the daemon."""

PROBE = """\
import json, sys
sys.path.insert(0, sys.argv[1])
from importlib.metadata import distribution
import curtaild, curtaild_config, curtaild_drivers, curtaild_emulator
from curtaild_drivers.registry import drivers
packages = [curtaild, curtaild_config, curtaild_drivers, curtaild_emulator]
scripts = [entry for entry in distribution("curtaild").entry_points if entry.group == "console_scripts"]
print(json.dumps({
    "files": [package.__file__ for package in packages],
    "drivers": sorted(drivers()),
    "scripts": {script.name: callable(script.load()) for script in scripts},
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without the network, from the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    built = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_it_installs_the_four_packages_and_nothing_else(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith((".dist-info", ".data"))} == set(ROOTS)


@pytest.mark.parametrize(("package", "folder"), ROOTS.items())
def test_no_file_of_a_package_is_missing(names: set[str], package: str, folder: str) -> None:
    source = REPOSITORY / folder
    files = [path for path in (source / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert source / package / "py.typed" in files
    assert {str(path.relative_to(source)) for path in files} <= names


@pytest.mark.parametrize("file", OPERATOR_FILES)
def test_the_operator_s_files_come_along(names: set[str], file: str) -> None:
    assert any(name.endswith(f".data/data/share/curtaild/{file}") for name in names)


def test_what_it_installs_works_by_itself(wheel: Path, tmp_path: Path) -> None:
    """Drivers are found by their entry points and the command loads, from the wheel's files and not from these."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    probe = subprocess.run(
        [sys.executable, "-I", "-c", PROBE, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert probe.returncode == 0, probe.stderr
    found = json.loads(probe.stdout)
    assert all(Path(file).is_relative_to(tmp_path) for file in found["files"]), found["files"]
    assert found["drivers"] == ["amdsmi", "asic", "downstream", "modbus", "modbus-coil", "nvml", "redfish"]
    assert found["scripts"] == {"curtaild": True}
