"""The compute service: versions documents and the choice of microversion."""
from __future__ import annotations

from typing import Any

import pytest

ROOT = "/compute/v2.1"


def test_the_versions_documents_need_no_token_and_their_links_lead_to_themselves(cloud_client: Any) -> None:
    versions = cloud_client.get("/compute", as_=None).json()["versions"]
    assert [entry["id"] for entry in versions] == ["v2.0", "v2.1"]
    assert versions[1]["min_version"] == "2.1"
    for entry in versions:
        link = entry["links"][0]["href"]
        again = cloud_client.get(link.removeprefix("http://cloud.test"), as_=None)
        assert again.status_code == 200
        assert again.json()["version"]["links"][0]["href"] == link


@pytest.mark.parametrize(("headers", "status", "version"), [
    ({}, 200, "2.1"),
    ({"OpenStack-API-Version": "compute 2.79"}, 200, "2.79"),
    ({"OpenStack-API-Version": "placement 1.3, compute 2.53"}, 200, "2.53"),
    ({"OpenStack-API-Version": "placement 1.3"}, 200, "2.1"),
    ({"X-OpenStack-Nova-API-Version": "2.12"}, 200, "2.12"),
    ({"X-OpenStack-Nova-API-Version": "2.12", "OpenStack-API-Version": "compute 2.30"}, 200, "2.30"),
    ({"OpenStack-API-Version": "compute latest"}, 200, "2.96"),
    ({"OpenStack-API-Version": "compute 2.97"}, 406, None),
    ({"OpenStack-API-Version": "compute 2.0"}, 406, None),
    ({"OpenStack-API-Version": "compute 3.1"}, 406, None),
    ({"OpenStack-API-Version": "compute two"}, 400, None),
    ({"OpenStack-API-Version": "compute 2.01"}, 400, None),
    ({"X-OpenStack-Nova-API-Version": ""}, 400, None),
])
def test_microversion_in_and_out(
    cloud_client: Any, headers: dict[str, str], status: int, version: str | None
) -> None:
    answer = cloud_client.get(f"{ROOT}/servers", headers=headers)
    assert answer.status_code == status, answer.text
    assert "OpenStack-API-Version" in answer.headers["vary"]
    assert answer.headers["x-compute-request-id"] == answer.headers["x-openstack-request-id"]
    if version:
        assert answer.headers["openstack-api-version"] == f"compute {version}"
        assert answer.headers["x-openstack-nova-api-version"] == version
    else:
        (fault,) = answer.json().values()
        assert fault["code"] == status
        assert fault["message"]
