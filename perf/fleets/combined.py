"""The results of a trial's loads, taken together."""

from collections import Counter


def combined(loads):
    """Returns the figures of several loads by name: sums and maxima; of the median and p99, those of the
    first, which is by far the largest."""
    found = [load.found for load in loads.values()]
    totals = [each["total"] for each in found]
    failures = [failure for each in found for failure in each["failures"]]
    late = [each["generator"]["lateness_ms"] for each in found]
    return {
        "requests": sum(total["requests"] for total in totals),
        "failed": sum(total["failed"] for total in totals),
        "late": sum(late_answers(total) for total in totals),
        "failures": summed(load.failures() for load in loads.values()),
        "unanswered": summed(
            {each["name"]: each["count"]} for each in failures if each["status"] == 0
        ),
        "worst_ms": max(worst_ms(each) for each in found),
        "p50_ms": totals[0]["latency_ms"]["p50"],
        "p99_ms": totals[0]["latency_ms"]["p99"],
        "is_wrong": any(load.is_wrong for load in loads.values()),
        "connections": summed(each["connection_counts"] for each in found),
        "generator_late_ms": {
            name: max(each[name] for each in late) for name in ("p99", "p99_9", "max")
        },
        "by_clients": {name: row(load.found) for name, load in loads.items()},
    }


def summed(counts):
    """Returns the sums of counts by name."""
    sums = Counter()
    for each in counts:
        sums.update(each)
    return dict(sums)


def late_answers(total):
    return total["ok"] - total["ok_in_250_ms"]


def worst_ms(found):
    """Returns the worst latency, failed requests included."""
    failures = (failure["latency_ms"]["max"] for failure in found["failures"])
    return max([found["total"]["latency_ms"]["max"], *failures])


def row(found):
    total = found["total"]
    return {
        "requests": total["requests"],
        "failed": total["failed"],
        "late": late_answers(total),
        "worst_ms": worst_ms(found),
    }
