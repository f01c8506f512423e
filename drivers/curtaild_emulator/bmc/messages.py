"""What a BMC says about a request it does not carry out: errors with messages of the DMTF's Base registry."""

from __future__ import annotations

from typing import Any

_REGISTRY = "Base.1.18"


class Rejected(Exception):
    """A request that ends with an error. `status` is HTTP's, `message` one of the Base registry."""

    def __init__(self, status: int, message: str, text: str, *arguments: str, about: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.body = error(message, text, *arguments, about=about)


def extended(message: str, text: str, *arguments: str, about: str = "", severity: str = "Critical") -> dict[str, Any]:
    """One message, as it stands in `@Message.ExtendedInfo`. `about` is the property it is about."""
    told: dict[str, Any] = {
        "@odata.type": "#Message.v1_1_2.Message",
        "MessageId": f"{_REGISTRY}.{message}",
        "Message": text,
        "MessageArgs": list(arguments),
        "MessageSeverity": severity,
        "Resolution": "None." if severity == "OK" else "Correct the request and submit it again.",
    }
    if about:
        told["RelatedProperties"] = [f"#/{about}"]
    return told


def error(message: str, text: str, *arguments: str, about: str = "") -> dict[str, Any]:
    """The body of an error response."""
    return {
        "error": {
            "code": f"{_REGISTRY}.{message}",
            "message": text,
            "@Message.ExtendedInfo": [extended(message, text, *arguments, about=about)],
        }
    }


def wrong_type(value: object, about: str) -> Rejected:
    return Rejected(
        400,
        "PropertyValueTypeError",
        f"The value '{value}' for the property {about} is of a different type than the property can accept.",
        str(value),
        about,
        about=about,
    )


def out_of_range(value: object, about: str) -> Rejected:
    return Rejected(
        400,
        "PropertyValueOutOfRange",
        f"The value '{value}' for the property {about} is not in the supported range of acceptable values.",
        str(value),
        about,
        about=about,
    )


def not_in_list(value: object, about: str) -> Rejected:
    return Rejected(
        400,
        "PropertyValueNotInList",
        f"The value '{value}' for the property {about} is not in the list of acceptable values.",
        str(value),
        about,
        about=about,
    )


def conflict(one: str, other: str) -> Rejected:
    return Rejected(
        400,
        "PropertyValueConflict",
        f"The property '{one}' could not be written because its value would conflict with the value of the "
        f"'{other}' property.",
        one,
        other,
        about=one,
    )


def unknown_property(about: str) -> Rejected:
    text = f"The property {about} is not in the list of valid properties for the resource."
    return Rejected(400, "PropertyUnknown", text, about, about=about)


def missing_property(about: str) -> Rejected:
    text = f"The property {about} is a required property and must be included in the request."
    return Rejected(400, "PropertyMissing", text, about, about=about)


def internal_error() -> Rejected:
    return Rejected(500, "InternalError", "The request failed due to an internal service error.")
