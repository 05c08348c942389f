"""AWS's cron expressions: minutes, hours, day of month, month, day of week and year.

Without the wildcards L, W and #, which are refused. Source: EventBridge Scheduler user guide,
"Cron-based schedules".
"""

import re
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (1, 7), (1970, 2199))
_PART = re.compile(r"(\*|\d+)(?:-(\d+))?(?:/(\d+))?")
_WILDCARD = re.compile(r"L|L-\d+|LW|\d{1,2}W|(\d|[A-Z]{3})L|\d#\d", re.IGNORECASE)
_FAR_DAYS = 4 * 366 + 1  # the next 29th of February


class NotOffered(ValueError):
    """An expression that AWS takes and this does not."""


class Cron:
    """A cron expression.

    Args:
        fields: What is between the parentheses, e.g. `0 18 ? * MON-FRI *`.

    Raises:
        NotOffered: When it has one of the wildcards L, W and #.
        ValueError: When it is none.
    """

    def __init__(self, fields: str):
        texts = fields.split()
        if len(texts) != 6 or (texts[2] == "?") == (texts[4] == "?"):
            raise ValueError("Six fields, and a question mark in exactly one of the day fields.")
        texts[3], texts[4] = _numbered(texts[3], _MONTHS), _numbered(texts[4], _DAYS)
        if any(_WILDCARD.fullmatch(part) for part in f"{texts[2]},{texts[4]}".split(",")):
            raise NotOffered("The rehearsal AWS does not offer L, W and # in cron expressions.")
        read = [_values(text, *limits) for text, limits in zip(texts, _RANGES, strict=True)]
        self._minutes, self._hours, self._month_days, self._months, self._week_days, self._years = (
            read
        )

    def after(self, epoch_s: float, zone: ZoneInfo) -> float | None:
        """The next moment after another; None when there is none within four years.

        A local time that the clock leaves out in spring is left out; one that comes twice in fall
        counts once.
        """
        first = datetime.fromtimestamp(epoch_s, zone).date()
        for days in range(_FAR_DAYS):
            day = first + timedelta(days=days)
            if not self._has(day):
                continue
            for hour in sorted(self._hours):
                for minute in sorted(self._minutes):
                    at = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
                    exists = at.astimezone(UTC).astimezone(zone).hour == hour
                    if exists and at.timestamp() > epoch_s:
                        return at.timestamp()
        return None

    def _has(self, day: date) -> bool:
        return (
            day.year in self._years
            and day.month in self._months
            and day.day in self._month_days
            and day.isoweekday() % 7 + 1 in self._week_days
        )


def _numbered(text: str, names: tuple[str, ...]) -> str:
    for number, name in enumerate(names, 1):
        text = re.sub(rf"\b{name}\b", str(number), text, flags=re.IGNORECASE)
    return text


def _values(text: str, low: int, high: int) -> set[int]:
    if text == "?":
        return set(range(low, high + 1))
    values: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"{part} is not understood.")
        first = low if match[1] == "*" else int(match[1])
        last = int(match[2]) if match[2] else high if match[3] or match[1] == "*" else first
        if not low <= first <= last <= high or match[3] == "0":
            raise ValueError(f"{part} is not between {low} and {high}.")
        values.update(range(first, last + 1, int(match[3] or 1)))
    return values
