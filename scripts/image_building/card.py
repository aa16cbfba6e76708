"""What is copied onto the boot partition of a stock Raspberry Pi OS card: the seed, and the folder `multispin`."""

import secrets
from pathlib import Path
from typing import Final, NamedTuple

from image_building.overlay import image_settings, write_overlay
from image_building.seed import Login, render_seed

__all__ = ["Card", "write_card"]

SETTINGS, SITE_SETTINGS = "40-image.toml", "60-site.toml"
ROOM_MB: Final = 400  # free on the 512 MB boot partition of a stock card, roughly


class Card(NamedTuple):
    """One card.

    Attributes:
        hostname: of the box.
        login: who may log in.
        package: the agent's, for the card's distribution.
        models: archive of the cache; null for a box that fetches its models.
        pair: of draft and target.
        coordinator: address; null where the enrolment says it.
        site_settings: more settings of the agent, as TOML; null for none.
        network_config: netplan's text; null for DHCP on the wired interface.
        token: that enrols this box; null to do that by hand.
    """

    hostname: str
    login: Login
    package: Path
    models: Path | None
    pair: str
    coordinator: str | None = None
    site_settings: str | None = None
    network_config: str | None = None
    token: str | None = None


def write_card(card: Card, folder: Path) -> None:
    """Write seed and overlay of one card into a folder that is not there yet.

    Raises:
        ConfigError: the folder is there.
    """
    texts = {SETTINGS: image_settings(card.pair, card.coordinator)}
    if card.site_settings is not None:
        texts[SITE_SETTINGS] = card.site_settings
    files = {card.package.name: card.package}
    if card.models is not None:
        files["models.tar"] = card.models
    write_overlay(folder / "multispin", texts, files, card.token)
    instance_id = f"multispin-{secrets.token_hex(8)}"
    seed = render_seed(instance_id, card.hostname, card.login, card.network_config)
    for name, text in (
        ("user-data", seed.user_data),
        ("meta-data", seed.meta_data),
        ("network-config", seed.network_config),
    ):
        (folder / name).write_text(text, encoding="utf-8")
