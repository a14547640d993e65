"""The unit is one that systemd takes, and keeps the program from what it does not need."""

import configparser
import re
import subprocess

import pytest

from places import BINARY, ROOT

UNIT = ROOT / "packaging" / "systemd" / "toggled.service"
# What a server takes after both its times to write what it was given.
LAST_SECONDS = 3
# Of 10, of which 0 is nothing to worry about. What is left is the network, which it is there for.
MOST_EXPOSED = 1.5


class _Repeated(dict):
    """Keeps all values of a setting that is there several times, one a line."""

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
    """The unit with the program that is there, and no dependence on what this machine has not."""
    text, replaced = re.subn(r"^ExecStart=\S+", f"ExecStart={BINARY}", UNIT.read_text(), flags=re.MULTILINE)
    assert replaced == 1
    file = tmp_path / UNIT.name
    file.write_text(text)
    return file


def analyze(*arguments):
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)


def test_systemd_takes_it(unit):
    told = analyze("verify", "--recursive-errors=no", unit)
    assert (told.returncode, told.stderr) == (0, "")


def test_what_systemd_would_not_take_is_found(unit):
    for bad in ["ProtectSystm=strict", "Type=ready", "SystemCallFilter=@no-such-group"]:
        unit.write_text(unit.read_text() + f"\n[Service]\n{bad}\n")
        told = analyze("verify", "--recursive-errors=no", unit)
        assert bad.partition("=")[2].lstrip("@") in told.stderr or bad.partition("=")[0] in told.stderr, told.stderr


def test_it_is_exposed_to_little(unit):
    told = analyze("security", "--offline=yes", f"--threshold={int(MOST_EXPOSED * 10)}", unit)
    print(told.stdout)
    assert told.returncode == 0, told.stdout
    assert float(re.search(r"exposure level for toggled\.service: ([\d.]+)", told.stdout)[1]) <= MOST_EXPOSED


def test_it_waits_for_the_program_and_gives_it_time_to_end():
    settings = service()
    assert settings["Type"] == "notify" and settings["Restart"] == "on-failure"
    # Its database may be away for hours.
    assert settings["TimeoutStartSec"] == "infinity"
    # Nor does it give up after a few starts.
    assert sections()["Unit"]["StartLimitIntervalSec"] == "0"
    # Their table is written from the program.
    table = (ROOT / "docs" / "operations.md").read_text()
    defaults = {
        name: re.search(rf"^\| `--{name} \w+` \| `\w+` \| `(\d+)s` \|", table, re.MULTILINE)
        for name in ["drain-delay", "shutdown-timeout"]
    }
    assert all(defaults.values()), defaults
    assert int(settings["TimeoutStopSec"]) > sum(int(default[1]) for default in defaults.values()) + LAST_SECONDS


def test_the_database_is_in_the_folder_that_is_its_own():
    settings = service()
    folder = f"/var/lib/{settings['StateDirectory']}"
    assert settings["WorkingDirectory"] == folder
    assert settings["Environment"] == f"TOGGLED_DATABASE_URL=sqlite://{folder}/toggled.db"
