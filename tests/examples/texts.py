"""Texts for the digest: a manual of several chapters in Markdown, and prose without any markup."""

MANUAL = """\
# The weather station

The weather station measures temperature, wind and rain on the roof of the school.
It was built by the pupils of the eighth class.

## Sensors

The temperature sensor hangs in a white box, so that the sun does not heat the sensor itself.
Every sensor is read once a minute, and a reading that differs much from the last reading is read again.

```python
sensor_reading = read_sensor("the sensor of the station is read by this code, which nobody quotes")
```

| sensor | unit of the reading that the sensor gives |
|---|---|
| wind | metres per second, as the wind sensor measures |

## Power

A solar panel of twenty watts charges the battery of the station during the day.
The battery holds enough energy for five nights without any sun.
If the battery is low, the station sends its readings only once an hour.

## Data

Readings are kept in a database on the station for one year, and copied to the school server every night.
The school server draws a chart of the readings, which the newspaper of the town prints every week.
"""


GERMAN = (
    "Die Brücke über den Fluss wurde im 19. Jahrhundert von vielen Arbeitern gebaut. "
    "Die Brücke ist z. B. bei Malern beliebt, und jedes Jahr kommen viele Menschen an den Fluss. "
)
CHINESE = "长江是亚洲最长的河流，也是世界第三长河。它发源于青藏高原。长江在上海注入东海。"  # noqa: RUF001  # Chinese commas
RUSSIAN = "Река Волга течёт по равнине и впадает в Каспийское море. По берегам Волги стоят большие города. "


def long_manual(chapters: int) -> str:
    """Return a manual of many chapters, each with five sentences of ten words, each about something else."""
    lines = ["# The town"]
    for chapter in range(chapters):
        lines.append(f"## Chapter {chapter}")
        for sentence in range(5):
            subject, verb, thing = (_word(15 * chapter + 3 * sentence + i) for i in range(3))
            lines.append(f"The {subject} of the town {verb}s a {thing} every spring.")
    return "\n\n".join(lines) + "\n"


def _word(number: int) -> str:
    """Return a made-up word; different numbers give words with different beginnings."""
    consonants, vowels = "bdfgklmnprstvz", "aeiou"
    syllables = [consonants[number // 70**i % 14] + vowels[number // (70**i * 14) % 5] for i in range(3)]
    return "".join(syllables) + "ren"
