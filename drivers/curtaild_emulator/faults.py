"""What real devices and meters do wrong, each seen on hardware or in independent emulations; switchable live."""

from __future__ import annotations

from enum import Enum


class Fault(Enum):
    """One misbehaviour of one device. The value is its name in farm files and in the control API."""

    HANG = "hang"
    """Accepts the connection and never answers. Nothing is done."""
    HANG_WRITE_APPLIED = "hang_write_applied"
    """Reads answer. A command is carried out, but its answer never comes."""
    NAN_POWER = "nan_power"
    """The power reading is NaN."""
    EMPTY_SUMMARY_ASLEEP = "empty_summary_asleep"
    """While asleep the summary and statistics are empty lists. Stock Antminers are born so."""
    ACK_NO_OBEY = "ack_no_obey"
    """Says yes, reports the new setting, and draws what it drew before."""
    HALF_OBEY = "half_obey"
    """Settles at half of the limit it was given."""
    DRIFT_BACK = "drift_back"
    """Obeys a lower limit, then creeps back to the draw it had before, still reporting the limit."""
    KEYS_VANISH_AFTER_SLEEP = "keys_vanish_after_sleep"
    """While asleep, answers lack the keys for power, limit and mode."""
    TOKEN_LIMIT = "token_limit"
    """Whatsminer v2: hands out 16 tokens and refuses the 17th (Code 136)."""
    API_DOWN_WHILE_STOPPED = "api_down_while_stopped"
    """Whatsminer v2: stopping ends the process that answers summary, boards and pools; while stopped, the API server
    before it sends the bare text `Socket connect failed: Connection refused` in their place."""
    CLOSE_AFTER_POWER_OFF = "close_after_power_off"
    """Carries out a stop and closes the connection without an answer."""
    NUMERIC_PERCENT_REFUSED = "numeric_percent_refused"
    """Whatsminer: a percentage sent as a JSON number is refused, as a string it is taken."""
    JSON_COMMANDS_IGNORED = "json_commands_ignored"
    """Avalon: an `ascset` that comes as JSON is dropped without an answer; only the text form does anything. Reading
    works either way. Its units are born so."""
    PERCENT_LOST_WHILE_STARTING = "percent_lost_while_starting"
    """Whatsminer: a percentage set before tuning has ended is acknowledged and forgotten, as MicroBT's API 3 document
    warns; it then climbs to its full limit."""
    FRAGMENT = "fragment"
    """Answers arrive in small pieces, each in its own segment."""
    RESUME_NEVER = "resume_never"
    """Acknowledges waking and stays at standby (1–2 % of wakes in the field: switch it on with a probability)."""
    WAKES_OTHER_MODE = "wakes_other_mode"
    """Wakes in another mode than it slept in."""
    REBOOT_ON_LIMIT = "reboot_on_limit"
    """Every change of limit or mode makes it boot anew."""
    BIAS = "bias"
    """Reports 5–20 % beside its true watts, by a constant of this unit."""
    CLOCK_WRONG = "clock_wrong"
    """Its own clock is years off; so are the times in its answers."""
    API_GONE_WHILE_BOOTING = "api_gone_while_booting"
    """Refuses every connection until it has booted."""
    REFUSE_CONNECTION = "refuse_connection"
    """Closes every connection at once."""
    WRONG_PASSWORD = "wrong_password"
    """Somebody changed its password: everything that needs one is rejected."""
    HTTP_500 = "http_500"
    """Its web server answers every request with status 500. Only firmwares with a web API."""
    SETTINGS_UNREADABLE = "settings_unreadable"
    """The page that tells what it is set to answers with status 500; all others work, those that write included. Only
    firmwares with a web API."""
    GARBAGE = "garbage"
    """Carries out what it is told and answers bytes that are not its protocol."""
    OFFLINE_SILENT = "offline_silent"
    """Its network is cut while it keeps mining: no byte comes back. (A listener in user space cannot keep the
    kernel from accepting, so on the wire the connection opens and nothing ever follows.)"""

    __hash__ = object.__hash__  # Enum's own is written in Python, and every reading asks for it


class MeterFault(Enum):
    """One misbehaviour of one meter."""

    STALE = "stale"
    """Its gateway refreshes the values once a minute only."""
    FROZEN = "frozen"
    """Answers for ever what it measured when the fault began."""
    NAN = "nan"
    """Power reads NaN."""
    NEGATIVE = "negative"
    """A current transformer sits the wrong way round: power reads negative."""
    DEAD = "dead"
    """Does not answer at all."""
