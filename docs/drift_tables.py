"""Tables of drift scores, for ``docs/generate.py``."""

from __future__ import annotations

from collections import Counter
from typing import Any

from native_tables import load, unmeasured

__all__ = ["drift_changes", "drift_cost", "drift_day", "drift_tails"]

#: Names of the sensors in the table.
SENSORS = {
    "image": "pictures (vqa)", "camera": "robot's camera", "audio": "microphone (vqa)",
    "state": "robot's state", "lidar": "robot's lidar",
}  # fmt: skip


def drift_day() -> str:
    """What happened in a day without a change."""
    data = load("drift")
    if data is None:
        return unmeasured("drift")
    day, alarms = data["day"], data["day"]["alarms"]
    counts = {
        name: sum(alarm["modality"] == name for alarm in alarms) for name in day["highest_score"]
    }
    found = data["changes"]
    soon = sum(row["found_within_5_s"] for row in found)
    later = sum(row["found_within_30_s"] for row in found)
    trials = sum(row["trials"] for row in found)
    always = sum(row["found_within_5_s"] == row["trials"] for row in found)
    never = sum(row["found_within_30_s"] == 0 for row in found)
    lines = [
        (
            f"Learned of {data['learned_hours']:g} h in {data['recordings']} recordings over a "
            f"day; one false alarm in {data['false_alarm_hours']:g} h was asked for, over "
            f"{len(counts)} sensors together. Another day of {day['hours']:g} h, with other "
            f"pictures, speakers and rooms, had **{len(alarms)} false alarms**:"
        ),
        "",
        "| sensor | false alarms | highest score | share of the time at 1 and above |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {SENSORS[name]} | {count} | {day['highest_score'][name]:.2f} "
        f"| {day['share_above_1'][name]:.3%} |"
        for name, count in counts.items()
    ]
    lines += [
        "",
        (
            f"Of {len(found)} planted changes, each planted at {found[0]['trials']} or fewer times "
            f"of the day, {always} were found within 5 s each time, and {never} were never found "
            f"within 30 s. Of {trials} trials, {soon / trials:.0%} were found within 5 s and "
            f"{later / trials:.0%} within 30 s. ({data['date']}, `benchmarks/drift.py`)"
        ),
    ]
    if alarms:
        named = Counter(_statistic(alarm["message"]) for alarm in alarms)
        words = ", ".join(f"{name} ({count})" for name, count in named.most_common(3))
        lines += ["", f"What raised the false alarms: {words}."]
    if "remark" in data:
        lines += ["", data["remark"]]
    return "\n".join(lines)


def _statistic(message: str) -> str:
    """The name of the statistic in a message of an alarm."""
    words = message.partition(", score ")[2].partition(": ")[2]
    name = words.removeprefix("statistics that are not like this together, most of all ")
    return name.partition(": ")[0] if not name.startswith("steepness") else "steepness of edges"


def drift_changes() -> str:
    """Each planted change."""
    data = load("drift")
    if data is None:
        return unmeasured("drift")
    lines = [
        "| sensor | change | strength | within 5 s | within 30 s | median, s |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {SENSORS[row['sensor']]} | {row['kind']} | {row['strength']} "
        f"| {row['found_within_5_s']} of {row['trials']} "
        f"| {row['found_within_30_s']} of {row['trials']} | {_seconds(row['median_s'])} |"
        for row in data["changes"]
    ]
    return "\n".join(lines)


def _seconds(median: float | None) -> str:
    return "-" if median is None else f"{median:.1f}"


def drift_cost() -> str:
    """What looks, scores and pushes cost."""
    data = load("drift")
    if data is None:
        return unmeasured("drift")
    cost: dict[str, Any] = data["cost"]
    device, stream = data["device"], cost["stream_us"]
    lines = [
        (
            f"One thread, {device['cores']} cores of {device['cpu']}, {data['date']}, load of the "
            f"machine at the end {device['load_average'][0]:.1f}:"
        ),
        "",
        "| what | us |",
        "|---|---|",
    ]
    lines += [f"| a look at: {name} | {us:.0f} |" for name, us in cost["look_us"].items()]
    lines += [
        f"| a look and a score of a 64 x 64 picture | {cost['look_and_score_of_image_us']:.0f} |",
        f"| a push that is not looked at | {cost['passed_over_us']:.2f} |",
        (
            f"| a stream of the vqa network: processor time from a picture's push to its "
            f"result, mean, without a profile | {stream['push_to_result_mean']:.0f} |"
        ),
        f"| the same with a profile | {stream['push_to_result_mean_with_profile']:.0f} |",
    ]
    return "\n".join(lines)


def drift_tails() -> str:
    """How often levels are passed."""
    data = load("drift")
    if data is None or "tails" not in data:
        return unmeasured("drift")
    tails = data["tails"]
    words = "; ".join(
        f"{name}: {ratio['mean']:.1f} times in the mean, {ratio['median']:.1f} in the median, over "
        f"3 times for {ratio['share_above_3']:.0%} of the levels"
        for name, ratio in tails["ratios"].items()
    )
    return (
        f"Levels of {tails['repeats']} samples of {tails['values']:,} independent values each, for "
        f"one in {tails['values'] * tails['times']:,}, were passed so often beside what was asked "
        f"for: {words}."
    )
