"""systemd accepts the unit, and the unit restricts the program."""

import configparser
import re
import subprocess

import pytest

from paths import BINARY, ROOT

UNIT = ROOT / "packaging" / "systemd" / "toggled.service"
# Seconds that a server needs for its last writes, after the drain delay and the shutdown timeout.
FINAL_WRITE_SECONDS = 3
# On systemd's scale from 0 (safe) to 10. The rest comes from network access, which the program needs.
MAX_EXPOSURE = 1.5


class _Repeated(dict):
    """Keeps all values of a repeated setting, one per line."""

    def __setitem__(self, key, value):
        if isinstance(value, list) and key in self:
            self[key].extend(value)
        else:
            super().__setitem__(key, value)


def sections():
    parser = configparser.ConfigParser(interpolation=None, strict=False, dict_type=_Repeated)
    parser.optionxform = str
    parser.read_string(UNIT.read_text())
    return parser


def service():
    return sections()["Service"]


@pytest.fixture
def unit(tmp_path):
    """The unit, with the program of this build."""
    text, replaced = re.subn(r"^ExecStart=\S+", f"ExecStart={BINARY}", UNIT.read_text(), flags=re.MULTILINE)
    assert replaced == 1
    file = tmp_path / UNIT.name
    file.write_text(text)
    return file


def analyze(*arguments):
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)


def test_systemd_accepts_the_unit(unit):
    result = analyze("verify", "--recursive-errors=no", unit)
    assert (result.returncode, result.stderr) == (0, "")


def test_invalid_unit_is_detected(unit):
    for bad in ["ProtectSystm=strict", "Type=ready", "SystemCallFilter=@no-such-group"]:
        unit.write_text(unit.read_text() + f"\n[Service]\n{bad}\n")
        result = analyze("verify", "--recursive-errors=no", unit)
        assert bad.partition("=")[2].lstrip("@") in result.stderr or bad.partition("=")[0] in result.stderr, result.stderr


def test_exposure_level_is_low(unit):
    result = analyze("security", "--offline=yes", f"--threshold={int(MAX_EXPOSURE * 10)}", unit)
    print(result.stdout)
    assert result.returncode == 0, result.stdout
    assert float(re.search(r"exposure level for toggled\.service: ([\d.]+)", result.stdout)[1]) <= MAX_EXPOSURE


def test_start_and_stop_timeouts_are_sufficient():
    settings = service()
    assert settings["Type"] == "notify" and settings["Restart"] == "on-failure"
    # The database may be unavailable for hours.
    assert settings["TimeoutStartSec"] == "infinity"
    # systemd never gives up restarting.
    assert sections()["Unit"]["StartLimitIntervalSec"] == "0"
    # The table in the document is generated from the program.
    table = (ROOT / "docs" / "configuration.md").read_text()
    defaults = {
        name: re.search(rf"^\| `--{name} \w+` \| `\w+` \| `(\d+)s` \|", table, re.MULTILINE)
        for name in ["drain-delay", "shutdown-timeout"]
    }
    assert all(defaults.values()), defaults
    assert int(settings["TimeoutStopSec"]) > sum(int(default[1]) for default in defaults.values()) + FINAL_WRITE_SECONDS


def test_database_is_in_the_state_directory():
    settings = service()
    folder = f"/var/lib/{settings['StateDirectory']}"
    assert settings["WorkingDirectory"] == folder
    assert settings["Environment"] == f"TOGGLED_DATABASE_URL=sqlite://{folder}/toggled.db"
