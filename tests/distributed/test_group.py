"""Which process of how many: the environment defines it completely, or is refused in one line."""

from __future__ import annotations

import pytest

from vizsage.distributed.group import own_group
from vizsage.errors import ConfigError

WHOLE = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node-1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        (WHOLE, (3, 4)),
        (WHOLE | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, (0, 1)),
        ({"MASTER_ADDR": "node-1", "MASTER_PORT": "29500"}, (0, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1)),
        ({"RANK": "", "WORLD_SIZE": "", "LOCAL_RANK": ""}, (0, 1)),
        ({"PMI_SIZE": "1"}, (0, 1)),
        (WHOLE | {"PMI_SIZE": "2"}, (3, 4)),
    ],
)
def test_a_group_is_read_off_the_environment(environment: dict[str, str], expected: tuple[int, int]) -> None:
    assert own_group(environment) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK=0 WORLD_SIZE=2 LOCAL_RANK=0: MASTER_ADDR, MASTER_"),
        ({"LOCAL_RANK": "0"}, "unset LOCAL_RANK$"),
        ({"WORLD_SIZE": "2"}, "RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT missing"),
        ({"RANK": "1"}, "RANK must be less than WORLD_SIZE"),
        (WHOLE | {"RANK": "4"}, "RANK must be less than WORLD_SIZE"),
        (WHOLE | {"LOCAL_RANK": "9"}, "LOCAL_RANK"),
        (WHOLE | {"WORLD_SIZE": "two"}, "WORLD_SIZE is not a number"),
        (WHOLE | {"RANK": "-1"}, "RANK is not a number"),
        (WHOLE | {"MASTER_PORT": "99999"}, "MASTER_PORT is no port"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE=2: processes of MPI"),
    ],
)
def test_what_describes_no_process_is_one_line(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        own_group(environment)
