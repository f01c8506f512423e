"""The gRPC service of Braiins OS on port 50051, on the field's own message classes: login, actions, power target."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import betterproto
from grpclib.config import Configuration
from grpclib.const import Cardinality, Status
from grpclib.const import Handler as Method
from grpclib.encoding.proto import ProtoCodec
from grpclib.events import _DispatchServerEvents  # its own server makes its handlers with it
from grpclib.exceptions import GRPCError
from grpclib.protocol import H2Protocol
from grpclib.server import Handler, Stream
from h2.config import H2Configuration
from pyasic.web.braiins_os.proto.braiins.bos import v1  # type: ignore[import-untyped]  # it ships no types

from curtaild_drivers.contract import RunState
from curtaild_emulator.faults import Fault
from curtaild_emulator.wires.braiins import BOARDS, BOS_VERSION, TOKEN_LIFE_S, BraiinsUnit
from curtaild_emulator.wires.exchange import GARBAGE, refuses
from curtaild_emulator.wires.unit import Board, Effect, Wire

_PACKAGE = "/braiins.bos.v1."
_LOGIN = "AuthenticationService/Login"
_CHIPS = 126
_PIECE_BYTES = 7  # a frame's header is nine
_PIECE_GAP_S = 0.0005


@dataclass(eq=False, repr=False)
class _BoardsConfiguration(betterproto.Message):
    """HashboardPerformanceConfiguration with the quick ramping that came with API 1.7, which pyasic has not yet."""

    quick_ramping_time_up_s: int | None = betterproto.uint32_field(4, optional=True)
    quick_ramping_time_down_s: int | None = betterproto.uint32_field(5, optional=True)


@dataclass(eq=False, repr=False)
class _Configuration(betterproto.Message):
    """GetMinerConfigurationResponse of API 1.7."""

    pool_groups: list[v1.PoolGroupConfiguration] = betterproto.message_field(1)  # noqa: RUF009  # its way to say a field
    tuner: v1.TunerConfiguration = betterproto.message_field(3)  # noqa: RUF009  # its way to say a field
    hashboard_config: _BoardsConfiguration = betterproto.message_field(5)  # noqa: RUF009  # its way to say a field


class _Call(NamedTuple):
    """One method: its messages, what it does and answers, and what that was for the faults that strike commands."""

    request: type[Any]
    response: type[Any]
    do: Callable[[BraiinsUnit, Any], Any]
    effect: Effect = Effect.READ


class _Pieces:
    """A transport that sends what it is given in small pieces, a moment apart, where its device has that fault."""

    def __init__(self, transport: asyncio.Transport, unit: BraiinsUnit) -> None:
        self._transport = transport
        self._unit = unit
        self._pending: deque[bytes] = deque()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._pending and not self._unit.miner.has(Fault.FRAGMENT):
            self._transport.write(data)
            return
        is_waiting = bool(self._pending)
        self._pending.extend(data[at : at + _PIECE_BYTES] for at in range(0, len(data), _PIECE_BYTES))
        if not is_waiting:
            self._send_one()

    def _send_one(self) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(self._pending[0])
        self._pending.popleft()
        if self._pending:
            asyncio.get_running_loop().call_later(_PIECE_GAP_S, self._send_one)


class GrpcExchange(asyncio.Protocol):
    """One HTTP/2 connection to one device."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._transport: asyncio.Transport | None = None
        self._http: H2Protocol | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        name = transport.get_extra_info("sockname")
        unit = self._board.unit_at(name[0], Wire.BRAIINS) if name else None
        if not isinstance(unit, BraiinsUnit) or refuses(unit):
            transport.abort()
            return
        self._transport = transport
        self._board.calls.add(transport)
        if unit.miner.has(Fault.OFFLINE_SILENT):
            return
        methods = {
            f"{_PACKAGE}{path}": Method(partial(self._serve, unit, path), Cardinality.UNARY_UNARY, call[0], call[1])
            for path, call in _CALLS.items()
        }
        handler = Handler(methods, ProtoCodec(), None, _DispatchServerEvents())
        settings = H2Configuration(client_side=False, header_encoding="ascii")
        self._http = H2Protocol(handler, Configuration().__for_server__(), settings)
        self._http.connection_made(cast(asyncio.Transport, _Pieces(transport, unit)))

    def data_received(self, data: bytes) -> None:
        if self._http is not None:
            self._http.data_received(data)

    def pause_writing(self) -> None:
        if self._http is not None:
            self._http.pause_writing()

    def resume_writing(self) -> None:
        if self._http is not None:
            self._http.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._board.calls.discard(self._transport)
        if self._http is not None:
            self._http.connection_lost(exc)
        self._transport = self._http = None

    async def _serve(self, unit: BraiinsUnit, path: str, stream: Stream[Any, Any]) -> None:
        request = await stream.recv_message()
        miner, call = unit.miner, _CALLS[path]
        unit.now()
        if refuses(unit):
            self._hang_up()
            return
        if miner.strikes(Fault.HANG) or miner.has(Fault.OFFLINE_SILENT):
            await _for_ever()
        shown = stream.metadata
        if path != _LOGIN and (shown is None or not unit.knows(shown.get("authorization"))):
            unit.answered[Effect.READ] += 1
            raise GRPCError(Status.UNAUTHENTICATED, "Invalid or missing token")
        told = call.do(unit, request)
        unit.answered[call.effect] += 1
        if call.effect is not Effect.READ and miner.strikes(Fault.HANG_WRITE_APPLIED):
            await _for_ever()
        await asyncio.sleep(self._board.latency_s)
        if call.effect is Effect.STOP and miner.strikes(Fault.CLOSE_AFTER_POWER_OFF):
            self._hang_up()
        elif miner.has(Fault.GARBAGE):
            self._hang_up(GARBAGE)
        else:
            if path == _LOGIN:
                await stream.send_initial_metadata(metadata={"authorization": told.token})
            await stream.send_message(told)

    def _hang_up(self, last_words: bytes = b"") -> None:
        if self._transport is not None:
            self._transport.write(last_words)
            self._transport.close()


async def _for_ever() -> None:
    """Until the peer gives up: then its connection is lost, and this task with it."""
    await asyncio.get_running_loop().create_future()


# --- what each method does ----------------------------------------------------------------------


def _pause(unit: BraiinsUnit, request: Any) -> Any:
    already = unit.miner.setting.asleep
    if not already:
        unit.miner.sleep(unit.now(), unit.ramp_down_s)
    return v1.PauseMiningResponse(already_paused=already)


def _resume(unit: BraiinsUnit, request: Any) -> Any:
    already = not unit.miner.setting.asleep
    if not already:
        unit.miner.wake(unit.now())
    return v1.ResumeMiningResponse(already_mining=already)


def _reboot(unit: BraiinsUnit, request: Any) -> Any:
    unit.miner.reboot(unit.now())
    return v1.RebootResponse()


def _restart(unit: BraiinsUnit, request: Any) -> Any:
    unit.miner.reboot(unit.now())
    return v1.RestartResponse()


def _locate(unit: BraiinsUnit, request: Any) -> Any:
    unit.is_blinking = request.enable
    return _located(unit, request)


def _located(unit: BraiinsUnit, request: Any) -> Any:
    return v1.LocateDeviceStatusResponse(enabled=unit.is_blinking)


def _set_target(unit: BraiinsUnit, request: Any) -> Any:
    """Only SAVE stores it without applying it, which nobody who sheds may mistake for obedience: it is refused."""
    applies = request.save_action in (v1.SaveAction.SAVE_AND_APPLY, v1.SaveAction.SAVE_AND_FORCE_APPLY)
    if not applies or not unit.takes_target(request.power_target.watt):
        raise GRPCError(Status.INVALID_ARGUMENT, "Power target out of range, or not applied")
    return v1.SetPowerTargetResponse(power_target=v1.Power(watt=round(unit.target_w)))


def _mode(unit: BraiinsUnit, request: Any) -> Any:
    if unit.keys_have_vanished:
        return v1.PerformanceMode()
    target = v1.PowerTargetMode(power_target=v1.Power(watt=round(unit.target_w)))
    return v1.PerformanceMode(tuner_mode=v1.TunerPerformanceMode(power_target=target))


def _tuner(unit: BraiinsUnit, request: Any) -> Any:
    if unit.tunes_by_hashrate:
        target = v1.TeraHashrate(terahash_per_second=unit.miner.model.rated_hs / 1e12)
        return v1.GetTunerStateResponse(
            overall_tuner_state=v1.TunerState.STABLE,
            hashrate_target_mode_state=v1.HashrateTargetModeState(current_target=target),
        )
    return v1.GetTunerStateResponse(
        overall_tuner_state=v1.TunerState.STABLE if unit.miner.is_settled else v1.TunerState.TUNING,
        power_target_mode_state=v1.PowerTargetModeState(current_target=v1.Power(watt=round(unit.target_w))),
    )


def _constraints(unit: BraiinsUnit, request: Any) -> Any:
    full_w = round(unit.miner.model.rated_w)
    power = v1.PowerConstraints(
        default=v1.Power(watt=full_w), min=v1.Power(watt=round(unit.lowest_target_w)), max=v1.Power(watt=full_w)
    )
    tuner = v1.TunerConstraints(
        power_target=power,
        enabled=v1.BooleanConstraint(default=True),
        default_mode=v1.TunerMode.POWER_TARGET,
    )
    return v1.GetConstraintsResponse(tuner_constraints=tuner)


def _configuration(unit: BraiinsUnit, request: Any) -> Any:
    pools = [
        v1.PoolConfiguration(uid=f"{n}", url=p.url, user=p.user, password=p.password, enabled=True)
        for n, p in enumerate(unit.pools)
    ]
    tuner = v1.TunerConfiguration(
        enabled=True, tuner_mode=v1.TunerMode.POWER_TARGET, power_target=v1.Power(watt=round(unit.target_w))
    )
    group = v1.PoolGroupConfiguration(uid="0", name="default", quota=v1.Quota(value=1), pools=pools)
    boards = _BoardsConfiguration(quick_ramping_time_down_s=unit.ramp_down_s)
    return _Configuration(pool_groups=[group], tuner=tuner, hashboard_config=boards)


def _pool_groups(unit: BraiinsUnit, request: Any) -> Any:
    pools = [
        v1.Pool(
            uid=f"{n}",
            url=p.url,
            user=p.user,
            enabled=True,
            alive=bool(p.url),
            active=n == 0 and not unit.is_asleep,
            stats=v1.PoolStats(accepted_shares=1000 if n == 0 else 0, rejected_shares=1 if n == 0 else 0),
        )
        for n, p in enumerate(unit.pools)
    ]
    return v1.GetPoolGroupsResponse(pool_groups=[v1.PoolGroup(name="default", quota=v1.Quota(value=1), pools=pools)])


def _details(unit: BraiinsUnit, request: Any) -> Any:
    state = unit.miner.state
    return v1.GetMinerDetailsResponse(
        uid=unit.mac.replace(":", ""),
        miner_identity=v1.MinerIdentity(
            brand=v1.MinerBrand.ANTMINER, name=unit.miner.model.wire_name, miner_model=unit.miner.model.wire_name
        ),
        platform=v1.Platform.AM3_AML,
        bos_version=v1.BosVersion(current=BOS_VERSION, major=BOS_VERSION[:4], bos_plus=True),
        hostname="Antminer",
        mac_address=unit.mac,
        sticker_hashrate=v1.GigaHashrate(gigahash_per_second=unit.miner.model.rated_hs / 1e9),
        bosminer_uptime_s=unit.elapsed_s,
        system_uptime_s=unit.elapsed_s,
        status=(
            v1.MinerStatus.PAUSED
            if unit.miner.setting.asleep
            else v1.MinerStatus.NORMAL
            if state is RunState.RUNNING
            else v1.MinerStatus.NOT_STARTED
        ),
        serial_number=f"EMU{unit.miner.id}",
    )


def _rates(unit: BraiinsUnit, share: float = 1.0) -> Any:
    rate = v1.GigaHashrate(gigahash_per_second=unit.miner.measured_hs() * share / 1e9)
    spans = ("last_5_s", "last_15_s", "last_30_s", "last_1_m", "last_5_m", "last_15_m", "since_restart")
    return v1.WorkSolverStats(
        real_hashrate=v1.RealHashrate(**dict.fromkeys(spans, rate)),
        nominal_hashrate=v1.GigaHashrate(gigahash_per_second=unit.miner.model.rated_hs * share / 1e9),
    )


def _stats(unit: BraiinsUnit, request: Any) -> Any:
    """Watts are an unsigned integer here: what is no number is missing."""
    if unit.summary_is_empty:
        return v1.GetMinerStatsResponse()
    power = v1.MinerPowerStats(efficiency=v1.PowerEfficiency(joule_per_terahash=30.0))
    if not unit.miner.has(Fault.NAN_POWER) and not unit.keys_have_vanished:
        power.approximated_consumption = v1.Power(watt=round(unit.miner.measured_w()))
    return v1.GetMinerStatsResponse(
        pool_stats=v1.PoolStats(accepted_shares=1000), miner_stats=_rates(unit), power_stats=power
    )


def _hashboards(unit: BraiinsUnit, request: Any) -> Any:
    boards = [
        v1.Hashboard(
            id=f"{n + 1}",
            enabled=not unit.is_asleep,
            chips_count=_CHIPS,
            board_temp=v1.Temperature(degree_c=60.0),
            highest_chip_temp=v1.TemperatureSensor(
                location=v1.SensorLocation.CHIP, temperature=v1.Temperature(degree_c=70.0)
            ),
            stats=_rates(unit, 1.0 / BOARDS),
            serial_number=f"EMU{unit.miner.id}B{n}",
        )
        for n in range(BOARDS)
    ]
    return v1.GetHashboardsResponse(hashboards=boards)


def _cooling(unit: BraiinsUnit, request: Any) -> Any:
    fans = [v1.FanState(position=n, rpm=600 if unit.is_asleep else 5400) for n in range(4)]
    hottest = v1.TemperatureSensor(location=v1.SensorLocation.CHIP, temperature=v1.Temperature(degree_c=70.0))
    return v1.GetCoolingStateResponse(fans=fans, highest_temperature=hottest)


def _login(unit: BraiinsUnit, request: Any) -> Any:
    token = unit.login(request.username, request.password)
    if token is None:
        raise GRPCError(Status.UNAUTHENTICATED, "Invalid credentials")
    return v1.LoginResponse(token=token, timeout_s=int(TOKEN_LIFE_S))


_SET = Effect.COMMAND
_CALLS: dict[str, _Call] = {
    _LOGIN: _Call(v1.LoginRequest, v1.LoginResponse, _login),
    "ActionsService/PauseMining": _Call(v1.PauseMiningRequest, v1.PauseMiningResponse, _pause, Effect.STOP),
    "ActionsService/ResumeMining": _Call(v1.ResumeMiningRequest, v1.ResumeMiningResponse, _resume, _SET),
    "ActionsService/Restart": _Call(v1.RestartRequest, v1.RestartResponse, _restart, _SET),
    "ActionsService/Reboot": _Call(v1.RebootRequest, v1.RebootResponse, _reboot, _SET),
    "ActionsService/SetLocateDeviceStatus": _Call(
        v1.SetLocateDeviceStatusRequest, v1.LocateDeviceStatusResponse, _locate, _SET
    ),
    "ActionsService/GetLocateDeviceStatus": _Call(
        v1.GetLocateDeviceStatusRequest, v1.LocateDeviceStatusResponse, _located
    ),
    "PerformanceService/SetPowerTarget": _Call(v1.SetPowerTargetRequest, v1.SetPowerTargetResponse, _set_target, _SET),
    "PerformanceService/GetActivePerformanceMode": _Call(v1.GetPerformanceModeRequest, v1.PerformanceMode, _mode),
    "PerformanceService/GetTunerState": _Call(v1.GetTunerStateRequest, v1.GetTunerStateResponse, _tuner),
    "ConfigurationService/GetConstraints": _Call(v1.GetConstraintsRequest, v1.GetConstraintsResponse, _constraints),
    "ConfigurationService/GetMinerConfiguration": _Call(
        v1.GetMinerConfigurationRequest, _Configuration, _configuration
    ),
    "PoolService/GetPoolGroups": _Call(v1.GetPoolGroupsRequest, v1.GetPoolGroupsResponse, _pool_groups),
    "MinerService/GetMinerDetails": _Call(v1.GetMinerDetailsRequest, v1.GetMinerDetailsResponse, _details),
    "MinerService/GetMinerStats": _Call(v1.GetMinerStatsRequest, v1.GetMinerStatsResponse, _stats),
    "MinerService/GetHashboards": _Call(v1.GetHashboardsRequest, v1.GetHashboardsResponse, _hashboards),
    "CoolingService/GetCoolingState": _Call(v1.GetCoolingStateRequest, v1.GetCoolingStateResponse, _cooling),
}
