"""Each node's curve from a file of its own, which the site's programs write."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError

from curtaild_drivers.contract import OperatingPoint
from curtaild_drivers.gpu import throughput
from curtaild_drivers.gpu.curve import LIMIT
from curtaild_drivers.gpu.learning import FULL_SAMPLES
from curtaild_drivers.gpu.redfish import RedfishSettings
from gpu_redfish.makes import openbmc
from gpu_redfish.tiny_bmc import HOST, opened, tiny_bmc


async def test_what_a_node_gets_done_under_its_limits_becomes_its_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "STANDS_STILL_S", -10.0)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    file = tmp_path / f"{HOST}.rate"
    async with tiny_bmc(openbmc()) as bmc, opened(bmc, throughput_file=f"{tmp_path}/{{address}}.rate") as node:
        fed = node._fed
        assert fed is not None
        before = await node.operating_points()
        half_w = before.points[1].draw_w
        async with asyncio.timeout(60):
            while fed._learned.full_samples < FULL_SAMPLES:
                file.write_text("1000")
                await node.read()
            assert not node.has_learned
            await node.apply(OperatingPoint(LIMIT, half_w, 0.72, divisible=True))
            while not node.has_learned:
                file.write_text("950")
                await node.read()
        after = await node.operating_points()
        assert [point.draw_w for point in after.points] == [point.draw_w for point in before.points]
        assert after.points[1].rate > before.points[1].rate
        assert not node.has_learned
    assert (tmp_path / f"redfish-{HOST}.curve.json").exists()


@pytest.mark.parametrize("path", ["/run/throughput", "run/{address}", "{address}"])
def test_a_file_that_all_nodes_of_a_group_would_share_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="throughput_file"):
        RedfishSettings(username="x", throughput_file=path)
