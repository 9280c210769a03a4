"""Upper bounds on a trial's cost, computed from the load and the balancer's settings."""

from fleets.stage import Bound

#: Seconds after which an unresponsive token is out of use, which /readyz reports at once.
SECONDS_UNTIL_NOT_READY = 2
#: Seconds until 20 requests have shown that the clock is wrong; the estimate is renewed once a second.
SECONDS_UNTIL_CLOCK_IS_NOTICED = 2
#: How often a replica whose clock stays wrong is tried in the 150 s of the trial: at first, and when it
#: was out of use for a minute.
TIMES_CLOCK_IS_NOTICED = 2
#: KMS's timeout, which limits the number of its requests under way on a replica.
KMS_SECONDS = 0.25
#: Changes of a token between in and out of use, in the 40 s of the longest trial.
CHANGES = 3


def nothing(_):
    return Bound(0, "no request, and no HSM out of use", changes=0)


def no_request(_):
    return Bound(0, "no request")


def until_out(fleet):
    seconds = SECONDS_UNTIL_NOT_READY + fleet.checks.seconds_until_out
    why = (
        f"the replica's {fleet.share:.0f}/s for {SECONDS_UNTIL_NOT_READY} s until /readyz says no and "
        f"{fleet.checks.seconds_until_out:g} s until the balancer acts"
    )
    return Bound(fleet.share * seconds, why, changes=CHANGES)


def until_clock_is_noticed(fleet):
    seconds = SECONDS_UNTIL_CLOCK_IS_NOTICED + fleet.checks.seconds_until_out
    times = TIMES_CLOCK_IS_NOTICED
    why = (
        f"the replica's {fleet.share:.0f}/s for {SECONDS_UNTIL_CLOCK_IS_NOTICED} s until /readyz says no and "
        f"{fleet.checks.seconds_until_out:g} s until the balancer acts, {times} times"
    )
    return Bound(times * fleet.share * seconds, why)


def until_checked_out(fleet):
    seconds = fleet.checks.seconds_until_out
    return Bound(
        fleet.share * seconds, f"the replica's {fleet.share:.0f}/s for {seconds:g} s until the balancer acts"
    )


def in_flight(fleet):
    why = f"the replica's {fleet.share:.0f}/s for {KMS_SECONDS} s, which may be under way"
    return Bound(fleet.share * KMS_SECONDS, why)
