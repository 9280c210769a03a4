"""How a trial's fleet and clients differ from the ordinary ones."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Setup:
    #: Milliseconds that a packet takes between clients and balancer, in each direction.
    milli_away: float = 0
    #: The clients' connections are never renewed, and others beside them make one request each.
    is_long_lived: bool = False
    #: The first replica's clock can be set.
    has_own_clock: bool = False


ORDINARY = Setup()
#: For changes that are planned: connections that last as long as the replicas let them, and new ones.
PLANNED = Setup(is_long_lived=True)
