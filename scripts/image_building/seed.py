"""What cloud-init reads at a box's first boot: user-data, meta-data, network-config. Text in, text out.

Raspberry Pi OS (Trixie) looks for them in the root of its boot partition, which it mounts at /boot/firmware: its own
cloud.cfg.d names the data source NoCloud with that folder as the seed. cloud-init does what it does once per
instance-id, so every card has its own. None of the three holds a secret.

Source: cloud-init's documentation, "NoCloud" and "Cloud config"; RPi-Distro/pi-gen, stage2/04-cloud-init.
"""

import json
import re
from typing import Final, NamedTuple

from multispin_models.errors import ConfigError

__all__ = ["BOOT_FOLDER", "FIRST_BOOT", "Login", "Seed", "checked_hostname", "checked_login", "render_seed"]

BOOT_FOLDER: Final = "/boot/firmware/multispin"  # of a card; on a disk image it is /boot/efi/multispin
FIRST_BOOT: Final = "multispin-first-boot.service"

_HOSTNAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_USER: Final = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_KEY: Final = re.compile(
    r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-[a-z0-9@.-]+) [A-Za-z0-9+/=]+( [ -~]*)?"
)

_USER_DATA: Final = """\
#cloud-config
# Written by multispin's scripts/image: agent/docs/image.md says what happens at the first boot.
hostname: {hostname}
manage_etc_hosts: true
ssh_pwauth: false
users:
  - name: {user}
    gecos: looks after the box
    shell: /bin/bash
    groups: [adm, sudo, systemd-journal]
    sudo: ["ALL=(ALL) NOPASSWD:ALL"]
    lock_passwd: true
    ssh_authorized_keys:
{keys}
# Only this: what runs here is not run again when the power fails meanwhile; a unit is.
runcmd:
  - [install, -m, "0644", {folder}/{unit}, /etc/systemd/system/{unit}]
  - [systemctl, daemon-reload]
  - [systemctl, enable, --now, --no-block, {unit}]
  - [systemctl, enable, --now, --no-block, ssh.service]
"""
_META_DATA: Final = """\
instance-id: {instance_id}
local-hostname: {hostname}
dsmode: local
"""
_NETWORK_CONFIG: Final = """\
network:
  version: 2
  ethernets:
    eth0:
      dhcp4: true
      optional: true
"""


class Login(NamedTuple):
    """Who may log in, by ssh with a key; passwords are never set.

    Attributes:
        user: name.
        keys: lines of an authorized_keys file.
    """

    user: str
    keys: tuple[str, ...]


class Seed(NamedTuple):
    """The three files, as text."""

    user_data: str
    meta_data: str
    network_config: str


def checked_hostname(name: str) -> str:
    """Return a host name that is one.

    >>> checked_hostname("ap-07")
    'ap-07'

    Raises:
        ConfigError: it is none.
    """
    if not _HOSTNAME.fullmatch(name):
        raise ConfigError(f"host name is {name!r}; allowed are 1 to 63 of a-z, 0-9 and -, with no - at either end")
    return name


def checked_login(user: str, keys_text: str) -> Login:
    """Return a login by the text of a file of public keys.

    Raises:
        ConfigError: the name is none, there is no key, or a line is none, as one of a private key.
    """
    if not _USER.fullmatch(user):
        raise ConfigError(f"user is {user!r}; allowed are 1 to 31 of a-z, 0-9, _ and -, a letter or _ first")
    keys = tuple(line.strip() for line in keys_text.splitlines() if line.strip() and not line.startswith("#"))
    if not keys:
        raise ConfigError(
            "the file for ssh holds no public key: a box that nobody can log in to cannot be looked after"
        )
    for number, key in enumerate(keys, start=1):
        if not _KEY.fullmatch(key):
            raise ConfigError(f"key {number} for ssh is no public key: give the *.pub file, as ssh-keygen writes it")
    return Login(user, keys)


def render_seed(instance_id: str, hostname: str, login: Login, network_config: str | None = None) -> Seed:
    """Return the seed of one card.

    Args:
        instance_id: new for every card.
        hostname: of the box.
        login: who may log in.
        network_config: netplan's text; null for DHCP on the wired interface.
    """
    keys = "\n".join(f"      - {json.dumps(key)}" for key in login.keys)  # a JSON string is one of YAML
    user_data = _USER_DATA.format(
        hostname=json.dumps(hostname), user=login.user, keys=keys, folder=BOOT_FOLDER, unit=FIRST_BOOT
    )
    meta_data = _META_DATA.format(instance_id=json.dumps(instance_id), hostname=json.dumps(hostname))
    return Seed(user_data, meta_data, _NETWORK_CONFIG if network_config is None else network_config)
