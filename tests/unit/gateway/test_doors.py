from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from distcomp.access import Access, SchedulerAccess
from distcomp.errors import ConfigError
from distcomp.gateway.doors import Doors

if TYPE_CHECKING:
    from pathlib import Path

AT = ("tcp://127.0.0.1:1",)


@pytest.fixture
def scheduler(tmp_path: Path) -> SchedulerAccess:
    access = SchedulerAccess.open("test", tmp_path, owner="alice")
    access.addresses = AT
    return access


def joined(scheduler: SchedulerAccess, *roles: str) -> list[Access]:
    return [Access.parse(scheduler.issue(role, "alice", AT).to_join()) for role in roles]


def test_a_scheduler_on_this_host_lets_every_owner_in(scheduler: SchedulerAccess) -> None:
    doors = Doors((), scheduler)
    assert (doors.cluster_name, doors.cluster_id) == ("test", scheduler.cluster_id)
    assert doors.observer().role == "observer"
    with pytest.raises(ConfigError, match="access create --owner bob"):
        doors.find("client", "bob")
    scheduler.add_owner("bob")
    assert doors.find("client", "bob").secret == scheduler.lookup("client", "bob")
    assert Doors((), scheduler, auth=False).find("client", "bob").secret is None


def test_join_strings_let_in_whom_they_name(scheduler: SchedulerAccess) -> None:
    doors = Doors(joined(scheduler, "client", "observer"))
    assert doors.find("client", "alice").addresses == AT
    assert doors.observer().role == "observer"
    assert Doors(joined(scheduler, "client")).observer().role == "client"
    with pytest.raises(ConfigError, match="client, or observer"):
        Doors(joined(scheduler, "worker")).observer()


def test_a_gateway_belongs_to_one_cluster(scheduler: SchedulerAccess, tmp_path: Path) -> None:
    other = SchedulerAccess.open("other", tmp_path, owner="alice")
    with pytest.raises(ConfigError, match="one cluster, not to other, test"):
        Doors([*joined(scheduler, "client"), *joined(other, "client")])
    with pytest.raises(ConfigError, match="none"):
        Doors()


def test_an_admin_is_let_in_by_the_scheduler_or_by_an_admins_join_string(scheduler: SchedulerAccess) -> None:
    assert Doors((), scheduler).admin().role == "admin"
    assert Doors(joined(scheduler, "client", "admin")).admin().secret == scheduler.lookup("admin", "alice")
    with pytest.raises(ConfigError, match="access show --role admin"):
        Doors(joined(scheduler, "client", "observer")).admin()
