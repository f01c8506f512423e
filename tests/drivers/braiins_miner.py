"""A Braiins OS miner whose wire is grpclib's and pyasic's generated messages: nothing of it is ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from curtaild_drivers.asic.pyasic_loader import pyasic
from drivers.tiny_servers import HOST


@cache
def messages() -> Any:
    """pyasic's generated module; `pyasic()` must have been awaited."""
    return import_module("pyasic.web.braiins_os.proto.braiins.bos.v1")


@dataclass
class Miner:
    """The far end's state. `verdict` is the gRPC status that a command is answered with; "hang" for none at all."""

    status: int = 2
    ghs: float = 100_000.0
    watts: int = 3_050
    target_w: int = 3_100
    tuner: int = 2
    uptime_s: int = 9_000
    user: str = "root"
    password: str = "root"
    obeys: bool = True
    verdict: Any = None
    token: str = ""
    logins: int = 0
    asked: list[str] = field(default_factory=list)
    obeyed: list[str] = field(default_factory=list)
    is_asked: asyncio.Event = field(default_factory=asyncio.Event)
    """A command has arrived."""
    port: int = 0

    async def login(self, stream: Any) -> None:
        grpc = import_module("grpclib")
        asked = await stream.recv_message()
        if (asked.username, asked.password) != (self.user, self.password):
            raise grpc.GRPCError(grpc.Status.UNAUTHENTICATED, "Invalid credentials")
        self.logins += 1
        self.token = f"token{self.logins}"
        await stream.send_initial_metadata(metadata={"authorization": self.token})
        await stream.send_message(messages().LoginResponse(token=self.token, timeout_s=3600))

    async def _admitted(self, stream: Any) -> Any:
        grpc = import_module("grpclib")
        if not self.token or stream.metadata.get("authorization") != self.token:
            raise grpc.GRPCError(grpc.Status.UNAUTHENTICATED, "token")
        return await stream.recv_message()

    async def stats(self, stream: Any) -> None:
        await self._admitted(stream)
        v1 = messages()
        real = v1.RealHashrate(last_5_s=v1.GigaHashrate(self.ghs), last_24_h=v1.GigaHashrate(1.0))
        await stream.send_message(
            v1.GetMinerStatsResponse(
                miner_stats=v1.WorkSolverStats(real_hashrate=real, best_share=2**63),
                power_stats=v1.MinerPowerStats(approximated_consumption=v1.Power(watt=self.watts)),
            )
        )

    async def details(self, stream: Any) -> None:
        await self._admitted(stream)
        v1 = messages()
        await stream.send_message(
            v1.GetMinerDetailsResponse(
                miner_identity=v1.MinerIdentity(name="Antminer S19j Pro", miner_model="Antminer S19j Pro"),
                bos_version=v1.BosVersion(current="2024-09-18-0-5c3ee0b2-24.09-plus"),
                mac_address="00:0a:95:9d:68:16",
                bosminer_uptime_s=self.uptime_s,
                status=v1.MinerStatus(self.status),
            )
        )

    async def tuner_state(self, stream: Any) -> None:
        await self._admitted(stream)
        v1 = messages()
        await stream.send_message(
            v1.GetTunerStateResponse(
                overall_tuner_state=v1.TunerState(self.tuner),
                power_target_mode_state=v1.PowerTargetModeState(current_target=v1.Power(watt=self.target_w)),
            )
        )

    async def constraints(self, stream: Any) -> None:
        await self._admitted(stream)
        v1 = messages()
        allowed = v1.PowerConstraints(default=v1.Power(3_068), min=v1.Power(1_100), max=v1.Power(5_000))
        await stream.send_message(
            v1.GetConstraintsResponse(tuner_constraints=v1.TunerConstraints(power_target=allowed))
        )

    async def _judged(self, stream: Any, name: str) -> Any:
        asked = await self._admitted(stream)
        self.obeyed.append(name)
        self.is_asked.set()
        if self.verdict == "hang":
            await asyncio.Event().wait()
        if self.verdict is not None:
            raise import_module("grpclib").GRPCError(self.verdict, "no: 100 % sure")
        return asked

    async def set_target(self, stream: Any) -> None:
        asked = await self._judged(stream, "target")
        v1 = messages()
        assert asked.save_action == v1.SaveAction.SAVE_AND_APPLY
        self.obeyed[-1] = f"target {asked.power_target.watt}"
        if self.obeys:
            self.target_w = asked.power_target.watt
        await stream.send_message(v1.SetPowerTargetResponse(power_target=v1.Power(watt=self.target_w)))

    async def pause(self, stream: Any) -> None:
        await self._judged(stream, "pause")
        was_paused, self.status, self.ghs, self.watts = self.status == 3, 3, 0.0, 40
        await stream.send_message(messages().PauseMiningResponse(already_paused=was_paused))

    async def resume(self, stream: Any) -> None:
        await self._judged(stream, "resume")
        was_mining, self.status, self.uptime_s = self.status == 2, 2, 5
        await stream.send_message(messages().ResumeMiningResponse(already_mining=was_mining))

    def __mapping__(self) -> dict[str, Any]:
        const, v1 = import_module("grpclib.const"), messages()
        calls = {
            "AuthenticationService/Login": (self.login, v1.LoginRequest, v1.LoginResponse),
            "MinerService/GetMinerStats": (self.stats, v1.GetMinerStatsRequest, v1.GetMinerStatsResponse),
            "MinerService/GetMinerDetails": (self.details, v1.GetMinerDetailsRequest, v1.GetMinerDetailsResponse),
            "PerformanceService/GetTunerState": (self.tuner_state, v1.GetTunerStateRequest, v1.GetTunerStateResponse),
            "PerformanceService/SetPowerTarget": (self.set_target, v1.SetPowerTargetRequest, v1.SetPowerTargetResponse),
            "ConfigurationService/GetConstraints": (
                self.constraints,
                v1.GetConstraintsRequest,
                v1.GetConstraintsResponse,
            ),
            "ActionsService/PauseMining": (self.pause, v1.PauseMiningRequest, v1.PauseMiningResponse),
            "ActionsService/ResumeMining": (self.resume, v1.ResumeMiningRequest, v1.ResumeMiningResponse),
        }
        return {
            f"/braiins.bos.v1.{name}": const.Handler(
                self._noted(name, call), const.Cardinality.UNARY_UNARY, question, reply
            )
            for name, (call, question, reply) in calls.items()
        }

    def _noted(self, name: str, call: Any) -> Any:
        async def handle(stream: Any) -> None:
            self.asked.append(name.rpartition("/")[2])
            await call(stream)

        return handle


@asynccontextmanager
async def serving(miner: Miner) -> AsyncIterator[Miner]:
    await pyasic()
    server = import_module("grpclib.server").Server([miner])
    make, connections = server._protocol_factory, []

    def noted() -> Any:
        connections.append(make())
        return connections[-1]

    server._protocol_factory = noted
    await server.start(HOST, 0)
    miner.port = server._server.sockets[0].getsockname()[1]
    try:
        yield miner
    finally:
        server.close()
        for connection in connections:  # which it would leave open
            connection.connection.close()
        await server.wait_closed()
