"""What `run.alert_when()` takes: a condition, over a window and for a time, as the rule that the monitor lives by."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pulsetrain._run.errors import InvalidRule
from pulsetrain._run.values import clean_text
from pulsetrain_schemas.alert_rules import MOST_NAME, RuleError, duration, parse, seconds, split

if TYPE_CHECKING:
    from datetime import timedelta


def rule_event(
    condition: str,
    *,
    for_: "str | float | timedelta | None",
    over: str,
    window: "str | float | timedelta | None",
    severity: str,
    cooldown: "str | float | timedelta | None",
    labels: Mapping[str, str] | None,
    name: str | None,
) -> dict[str, Any]:
    """The journal's record of a rule. Raises InvalidRule."""
    try:
        subject, comparison = split(condition)
        rule: dict[str, Any] = {
            # What the hardware does is called as W&B calls it: system.….
            "system" if subject.startswith("system.") else "metric": clean_text(subject),
            "condition": comparison,
            "over": over,
            "severity": severity,
        }
        for key, given in (("window", window), ("for", for_), ("cooldown", cooldown)):
            length = seconds(_number(given), key)
            if length is not None:
                rule[key] = duration(length)
        if labels:
            rule["labels"] = {clean_text(str(key)): clean_text(str(value)) for key, value in labels.items()}
        rule["name"] = _default_name(condition, rule) if name is None else clean_text(str(name))
        parse(rule, "the rule")
    except RuleError as error:
        raise InvalidRule(f"alert_when({condition!r}): {error}") from None
    except (AttributeError, TypeError) as error:
        raise InvalidRule(f"alert_when({condition!r}): labels are names with values ({error})") from None
    return rule


def _number(given: Any) -> Any:
    """A timedelta as seconds; anything else as it is."""
    return given.total_seconds() if hasattr(given, "total_seconds") else given


def _default_name(condition: str, rule: Mapping[str, Any]) -> str:
    what = " ".join(clean_text(condition).split())
    over = "" if rule["over"] == "last" else f"{rule['over']} over {rule.get('window')} of "
    return f"{over}{what}"[:MOST_NAME]
