"""Upper bounds on a trial's cost, computed from the load and the balancer's settings."""

from fleets.stage import Bound

#: Seconds after which an unresponsive token is out of use, which /readyz reports at once.
SECONDS_UNTIL_NOT_READY = 2
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


def until_checked_out(fleet):
    seconds = fleet.checks.seconds_until_out
    return Bound(
        fleet.share * seconds, f"the replica's {fleet.share:.0f}/s for {seconds:g} s until the balancer acts"
    )


def in_flight(fleet):
    why = f"the replica's {fleet.share:.0f}/s for {KMS_SECONDS} s, which may be under way"
    return Bound(fleet.share * KMS_SECONDS, why)
