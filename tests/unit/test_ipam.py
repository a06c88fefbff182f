# SPDX-License-Identifier: Apache-2.0
"""host-local's files as it writes them: an address is kept, not given away, and given back."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from shim.network import ipam

ADDRESS = ip_address("10.244.1.10")


@pytest.fixture
def networks(tmp_path: Path) -> Path:
    (tmp_path / "pods").mkdir()
    (tmp_path / "pods" / "lock").touch()
    (tmp_path / "pods" / "last_reserved_ip.0").write_text("10.244.1.11")
    (tmp_path / "pods" / "10.244.1.10").write_text("3f2c\r\neth0")
    (tmp_path / "pods" / "10.244.1.11").write_text("77aa\r\neth0")
    return tmp_path


def owner(networks: Path, address: str) -> str:
    return (networks / "pods" / address).read_text().splitlines()[0]


def test_an_address_is_kept_and_given_back(networks: Path) -> None:
    assert ipam.reserve(ADDRESS, networks=networks)
    assert ipam.reserve(ADDRESS, networks=networks)
    assert owner(networks, "10.244.1.10") == ipam.OWNER
    assert owner(networks, "10.244.1.11") == "77aa"
    assert ipam.reserved(networks=networks) == ["10.244.1.10"]
    ipam.release(ADDRESS, networks=networks)
    ipam.release(ADDRESS, networks=networks)
    assert not (networks / "pods" / "10.244.1.10").exists()


def test_anothers_address_is_never_given_back(networks: Path) -> None:
    ipam.release(ip_address("10.244.1.11"), networks=networks)
    assert owner(networks, "10.244.1.11") == "77aa"


def test_where_host_local_has_not_given_it_nothing_is_done(networks: Path) -> None:
    assert not ipam.reserve(ip_address("10.9.9.9"), networks=networks)
    assert not ipam.reserve(ADDRESS, networks=networks / "absent")
    assert sorted(path.name for path in (networks / "pods").iterdir()) == [
        "10.244.1.10",
        "10.244.1.11",
        "last_reserved_ip.0",
        "lock",
    ]
