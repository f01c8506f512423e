"""Installs this working tree in a box as its readme says: a virtual environment under /opt, from a wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SITE_PACKAGES = f"opt/curtaild/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"

_SCRIPT = """\
#!/opt/curtaild/bin/python
import sys
from curtaild.cli import main
sys.exit(main())
"""

# Shown in the box: the interpreter that runs the tests, and the libraries beside it.
INTERPRETER, LIBRARIES = Path("/opt/python"), Path("/opt/libraries")


def binds() -> dict[Path, Path]:
    """What the box must show, and where: this interpreter may live in a home, which the service does not see."""
    return {Path(sys.base_prefix).resolve(): INTERPRETER, Path(sysconfig.get_path("purelib")): LIBRARIES}


def wheel(folder: Path) -> Path:
    """The wheel of the working tree, built without the network."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def install(root: Path, built: Path) -> None:
    """Unpack the wheel `built` into a virtual environment at /opt/curtaild, and put the unit where units go."""
    packages = root / SITE_PACKAGES
    packages.mkdir(parents=True)
    with zipfile.ZipFile(built) as archive:
        archive.extractall(packages)
    (packages / "libraries.pth").write_text(f"{LIBRARIES}\n")

    binaries = root / "opt/curtaild/bin"
    binaries.mkdir()
    (binaries / "python").symlink_to(INTERPRETER / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")
    (root / "opt/curtaild/pyvenv.cfg").write_text(f"home = {INTERPRETER}/bin\ninclude-system-site-packages = false\n")
    (binaries / "curtaild").write_text(_SCRIPT)
    (binaries / "curtaild").chmod(0o755)

    # An interpreter that looks for its own library where it was built does not find it elsewhere.
    (root / "etc/ld.so.conf.d").mkdir(exist_ok=True)
    (root / "etc/ld.so.conf.d/python.conf").write_text(f"{INTERPRETER}/lib\n")
    shutil.copy(REPOSITORY / "systemd/curtaild.service", root / "etc/systemd/system/curtaild.service")
    (root / "etc/curtaild").mkdir()
