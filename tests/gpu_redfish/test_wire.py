"""What BMCs do wrong, on the wire: each a test. What must never happen: an unknown outcome called a refusal."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

import pytest
from aiohttp import web

from curtaild.actuator import GUARD_S
from curtaild_drivers.contract import (
    AuthFailed,
    BadReply,
    DriverError,
    OperatingPoint,
    Outcome,
    OutcomeUnknown,
    Refused,
    Unreachable,
    Unsupported,
)
from curtaild_drivers.gpu.curve import LIMIT
from curtaild_drivers.gpu.redfish import RedfishSettings
from curtaild_drivers.gpu.redfish.device import SETTLE_DOWN_S
from gpu_redfish.makes import gpu_metrics, hgx, openbmc
from gpu_redfish.tiny_bmc import (
    HOST,
    PASSWORD,
    SESSIONS,
    USER,
    Asked,
    TinyBmc,
    hang,
    opened,
    refusal,
    tiny_bmc,
)

METRICS = "/redfish/v1/Chassis/chassis/EnvironmentMetrics"
SIX_KW = OperatingPoint(LIMIT, 6000.0, 0.9, divisible=True)


def always(answer: Any) -> Any:
    """A behaviour: this answer, whatever was asked."""

    async def behave(asked: Asked) -> web.StreamResponse:
        return answer() if callable(answer) else web.json_response(answer)

    return behave


# ---- the session ------------------------------------------------------------------------------------


async def test_one_session_serves_all_and_is_ended() -> None:
    async with tiny_bmc(openbmc()) as bmc:
        async with opened(bmc) as node:
            await node.identify()
            await node.read()
            await node.apply(SIX_KW)
            assert (bmc.logins, len(bmc.tokens)) == (1, 1)
        assert bmc.tokens == {}
        await node.close()


async def test_a_session_that_ended_is_made_anew_once() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        await node.read()
        bmc.tokens.clear()
        assert (await node.read()).power_w == 8400.5
        bmc.tokens.clear()
        assert await node.apply(SIX_KW) is Outcome.ACKNOWLEDGED
        assert bmc.logins == 3


async def test_a_session_that_is_never_accepted_is_given_back_and_not_asked_for_again() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        await node.read()
        bmc.behaviours["GET", METRICS] = always(lambda: refusal(401, "Base.1.8.NoValidSession", "Not you."))
        with pytest.raises(AuthFailed, match="accepts the password and not the session: HTTP 401: Not you"):
            await node.read()
        assert (bmc.logins, list(bmc.tokens)) == (2, ["token-1"]), "one more, and that one deleted"
        with pytest.raises(AuthFailed):
            await node.read()
        assert bmc.logins == 2


async def test_a_rejected_password_is_told_and_not_tried_again_at_once() -> None:
    """BMCs lock an account, or block an address, after a few."""
    async with tiny_bmc(openbmc()) as bmc, opened(bmc, password="wrong") as node:
        for call in (node.read, node.identify, node.operating_points):
            with pytest.raises(AuthFailed, match="Invalid username or password"):
                await call()
        with pytest.raises(AuthFailed):
            await node.apply(SIX_KW)
        assert [asked.path for asked in bmc.asked] == ["/redfish/v1/", SESSIONS]


async def test_without_a_password_nothing_is_asked() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc, password=None) as node:
        with pytest.raises(AuthFailed, match="password_file"):
            await node.read()
        assert bmc.asked == []


async def test_all_sessions_taken_is_no_fault_of_the_password() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        full = refusal(503, "Base.1.8.SessionLimitExceeded", "All sessions are in use.")
        bmc.behaviours["POST", SESSIONS] = always(lambda: full)
        with pytest.raises(Unreachable, match="All sessions are in use"):
            await node.read()
        bmc.behaviours.clear()
        assert (await node.read()).power_w == 8400.5


async def test_the_password_goes_nowhere_but_into_the_login() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        await node.apply(SIX_KW)
    told = [asked for asked in bmc.asked if PASSWORD in str(asked)]
    assert [(asked.path, asked.body) for asked in told] == [(SESSIONS, {"UserName": USER, "Password": PASSWORD})]
    assert PASSWORD not in repr(vars(node))


# ---- time and connections ---------------------------------------------------------------------------


def test_a_cap_that_takes_forty_seconds_is_waited_for() -> None:
    settings = RedfishSettings(username="x")
    assert SETTLE_DOWN_S >= 40
    assert 40 < settings.write_deadline_s < GUARD_S, "the driver's own deadline ends a command first"


async def test_a_command_whose_answer_comes_late_but_in_time_is_waited_for() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        await node.read()
        arrived, answers = asyncio.Event(), asyncio.Event()

        async def slow(asked: Asked) -> web.StreamResponse:
            arrived.set()
            await answers.wait()
            return bmc.answer(asked)

        bmc.behaviours["PATCH", METRICS] = slow
        command = asyncio.create_task(node.apply(SIX_KW))
        await arrived.wait()
        asked_meanwhile = asyncio.create_task(node.read())
        await asyncio.sleep(0)
        answers.set()
        assert await command is Outcome.ACKNOWLEDGED
        assert (await asked_meanwhile).limit_w == 6000.0
        assert bmc.most_open == 1


async def test_a_bmc_that_does_not_answer_in_time() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        await node.read()
        bmc.behaviours["PATCH", METRICS] = hang
        with pytest.raises(OutcomeUnknown, match="did not answer in time"):
            await node.apply(SIX_KW)
        bmc.behaviours["GET", METRICS] = hang
        with pytest.raises(Unreachable, match="did not answer in time"):
            await node.read()
        with pytest.raises(Unreachable):
            await node.apply(SIX_KW)
        assert len(bmc.changes()) == 1, "a command whose question before hung is not sent"


async def test_a_bmc_that_hangs_up_on_a_command() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        await node.read()

        async def hang_up(asked: Asked) -> web.StreamResponse:
            raise ConnectionResetError

        bmc.behaviours["PATCH", METRICS] = hang_up
        with pytest.raises(OutcomeUnknown):
            await node.apply(SIX_KW)
        assert len(bmc.changes()) == 1, "never a second time"


async def test_where_nothing_listens_nothing_was_changed() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        await node.read()
        free_port = bmc.port
    async with opened(TinyBmc({}, port=free_port)) as node:
        with pytest.raises(Unreachable, match=f"no connection to {HOST}"):
            await node.apply(SIX_KW)


async def test_everything_at_once_goes_over_one_connection() -> None:
    async with tiny_bmc(hgx()) as bmc, opened(bmc) as node:
        calls = [node.read(), node.identify(), node.operating_points(), node.apply(SIX_KW), node.read(), node.read()]
        await asyncio.gather(*calls)
        assert (bmc.most_open, bmc.logins) == (1, 1)


# ---- lies and refusals ------------------------------------------------------------------------------


async def test_yes_without_effect_shows_in_the_reading() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        bmc.behaviours["PATCH", METRICS] = always(lambda: web.Response(status=204))
        assert await node.apply(SIX_KW) is Outcome.ACKNOWLEDGED
        assert (await node.read()).limit_w == 9000.0


async def test_whole_watts_only() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:

        async def strict(asked: Asked) -> web.StreamResponse:
            if isinstance(asked.body["PowerLimitWatts"]["SetPoint"], int):
                return bmc.answer(asked)
            return refusal(400, "Base.1.8.PropertyValueTypeError", "The value is of a different type.")

        bmc.behaviours["PATCH", METRICS] = strict
        assert await node.apply(OperatingPoint(LIMIT, 5999.99, 0.9, True)) is Outcome.ACKNOWLEDGED
        assert (await node.read()).limit_w == 5999.0


REFUSALS = [
    (400, "Base.1.8.PropertyValueNotInList", "The value 6000 is not allowed.", Refused),
    (400, "IDRAC.2.8.SYS428", "Power cap is disabled by policy.", Refused),
    (403, "Base.1.8.InsufficientPrivilege", "There are insufficient privileges.", AuthFailed),
    (403, "iLO.2.14.LicenseKeyRequired", "A license key is required.", Refused),
    (404, "Base.1.8.ResourceMissingAtURI", "Not found.", Refused),
    (409, "Base.1.8.ResourceInUse", "In use by another.", Refused),
    (500, "Base.1.8.InternalError", "The request failed.", OutcomeUnknown),
    (503, "Base.1.8.ServiceTemporarilyUnavailable", "Retry in 30 seconds.", OutcomeUnknown),
    (200, "Base.1.8.PropertyNotWritable", "The property is read only.", Refused),
]


@pytest.mark.parametrize(("status", "message_id", "message", "error"), REFUSALS)
async def test_a_no_is_told_in_the_makers_words(
    status: int, message_id: str, message: str, error: type[DriverError]
) -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        bmc.behaviours["PATCH", METRICS] = always(lambda: refusal(status, message_id, message))
        with pytest.raises(error, match=message) as told:
            await node.apply(SIX_KW)
        assert type(told.value) is error
        assert len(bmc.changes()) == 1


async def test_a_yes_with_words_is_a_yes() -> None:
    """As HPE and Dell say it: an `error` that reports success."""
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        bmc.behaviours["PATCH", METRICS] = always(lambda: refusal(200, "Base.1.8.Success", "Successfully completed."))
        assert await node.apply(SIX_KW) is Outcome.ACKNOWLEDGED


TASKS = [
    ({"TaskState": "Running"}, 200, None),
    ({"TaskState": "Completed"}, 200, None),
    ({"TaskState": "Exception", "Messages": [{"Message": "Out of range."}]}, 200, "Exception: Out of range"),
    ({}, 404, None),
    ({"error": {"@Message.ExtendedInfo": [{"Message": "Out of range."}]}}, 400, "HTTP 400: Out of range"),
]


@pytest.mark.parametrize(("task", "status", "refused"), TASKS)
async def test_a_task_is_a_yes_unless_it_has_failed(task: Any, status: int, refused: str | None) -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        monitor = "/redfish/v1/TaskService/TaskMonitors/7"
        bmc.behaviours["PATCH", METRICS] = always(lambda: web.Response(status=202, headers={"Location": monitor}))
        bmc.behaviours["GET", monitor] = always(lambda: web.json_response(task, status=status))
        if refused is None:
            assert await node.apply(SIX_KW) is Outcome.ACKNOWLEDGED
        else:
            with pytest.raises(Refused, match=refused):
                await node.apply(SIX_KW)
        assert bmc.gets()[-1] == monitor


async def test_an_if_match_that_is_demanded_is_given() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        bmc.demands_tag = True
        assert await node.apply(SIX_KW) is Outcome.ACKNOWLEDGED
        assert (await node.read()).limit_w == 6000.0
        assert len(bmc.changes()) == 1


async def test_a_tag_that_changes_with_the_watts_ends_as_any_state_will_do() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        bmc.demands_tag = True

        async def restless(asked: Asked) -> web.StreamResponse:
            answer = bmc.answer(asked)
            bmc.tag += 1
            return answer

        bmc.behaviours["GET", METRICS] = restless
        assert await node.apply(SIX_KW) is Outcome.ACKNOWLEDGED
        sent = [asked.headers.get("If-Match") for asked in bmc.asked if asked.method == "PATCH"]
        assert sent[-1] == "*"
        assert (await node.read()).limit_w == 6000.0


async def test_a_bmc_that_refuses_every_tag_has_refused() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        bmc.behaviours["PATCH", METRICS] = always(lambda: refusal(412, "Base.1.8.PreconditionFailed", "No match."))
        with pytest.raises(Refused, match="No match"):
            await node.apply(SIX_KW)
        assert len(bmc.changes()) <= 4


async def test_gpus_of_which_one_refuses_are_of_unknown_outcome_and_the_others_are_shed() -> None:
    async with tiny_bmc(hgx()) as bmc, opened(bmc) as node:
        no = refusal(400, "Base.1.8.PropertyValueOutOfRange", "GPU 3 is in maintenance.")
        bmc.behaviours["PATCH", gpu_metrics(3)] = always(lambda: no)
        with pytest.raises(OutcomeUnknown, match=r"7 of 8 limits are taken: .*GPU 3 is in maintenance"):
            await node.apply(SIX_KW)
        limit_w = (await node.read()).limit_w
        assert limit_w == pytest.approx(1800 + 1.15 * (7 * 456 + 700))


async def test_gpus_that_all_refuse_have_refused() -> None:
    async with tiny_bmc(hgx()) as bmc, opened(bmc) as node:
        for gpu in range(1, 9):
            no = always(lambda: refusal(400, "Base.1.8.PropertyNotWritable", "Read only."))
            bmc.behaviours["PATCH", gpu_metrics(gpu)] = no
        with pytest.raises(Refused, match="Read only"):
            await node.apply(SIX_KW)


# ---- what cannot be an answer -----------------------------------------------------------------------

GARBAGE = {
    "not JSON": lambda: web.Response(body=b"<html>Login</html>"),
    "not JSON, deep": lambda: web.Response(body=b"[" * 100_000),
    "not a JSON object": lambda: web.json_response([1, 2]),
    "longer than 1024 KiB": lambda: web.Response(body=b'{"a":"' + b"x" * 2_000_000 + b'"}'),
    "packs its answer": lambda: web.Response(
        body=zlib.compress(b"0" * 10_000), headers={"Content-Encoding": "deflate"}
    ),
    "HTTP 404": lambda: web.Response(status=404),
}


@pytest.mark.parametrize("named", GARBAGE)
async def test_garbage_is_a_bad_reply_and_the_next_answer_counts_again(named: str) -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        await node.read()
        bmc.behaviours["GET", METRICS] = always(GARBAGE[named])
        with pytest.raises(BadReply, match=named.partition(",")[0]):
            await node.read()
        with pytest.raises(Refused, match="nothing was sent"):
            await node.apply(SIX_KW)
        bmc.behaviours.clear()
        assert (await node.read()).power_w == 8400.5


async def test_garbage_after_a_command_is_an_unknown_outcome() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        bmc.behaviours["PATCH", METRICS] = always(GARBAGE["longer than 1024 KiB"])
        with pytest.raises(OutcomeUnknown, match="longer than"):
            await node.apply(SIX_KW)


async def test_a_redirect_is_followed_within_the_bmc_only() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        await node.read()
        bmc.documents[METRICS + "/"] = bmc.documents[METRICS]
        there = {"Location": METRICS + "/"}
        bmc.behaviours["GET", METRICS] = always(lambda: web.Response(status=308, headers=there))
        assert (await node.read()).power_w == 8400.5
        for elsewhere in (f"http://{HOST}:1{METRICS}", f"https://{HOST}:{bmc.port}{METRICS}", "//evil/redfish/v1/", ""):
            there["Location"] = elsewhere
            with pytest.raises(BadReply, match="redirects to"):
                await node.read()
        bmc.behaviours["PATCH", METRICS] = bmc.behaviours.pop(("GET", METRICS))
        with pytest.raises(Refused, match="HTTP 308"):
            await node.apply(SIX_KW)


async def test_a_link_that_leads_out_of_redfish_is_none() -> None:
    documents = openbmc()
    documents["/redfish/v1/Chassis/chassis"]["EnvironmentMetrics"] = {"@odata.id": "http://elsewhere/redfish/v1/"}
    async with tiny_bmc(documents) as bmc, opened(bmc) as node:
        with pytest.raises(Unsupported, match="no power limit"):
            await node.operating_points()


async def test_a_limit_in_percent_is_no_limit_in_watts() -> None:
    documents = openbmc()
    documents[METRICS]["PowerLimitWatts"]["SetPointUnits"] = "%"
    async with tiny_bmc(documents) as bmc, opened(bmc) as node:
        with pytest.raises(Unsupported, match="no power limit"):
            await node.operating_points()
        assert (await node.read()).power_w == 8400.5, "read, and not throttled"
