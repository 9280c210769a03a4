"""What a trial may cost, computed from the load and from what the balancer does."""

from fleets.stage import Bound

#: A token that answers nobody in time is out after that; /readyz says so at once.
SECONDS_UNTIL_NOT_READY = 2
#: KMS gives up after that, so no more of its requests are under way on a replica.
KMS_SECONDS = 0.25
#: Of a token in and out of use, in the 40 s of the longest trial.
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
