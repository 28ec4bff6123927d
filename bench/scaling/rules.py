"""Decide as DCF, Ray Serve and OpenFaaS do.

In:   what the cluster's gateway would have seen until now.
Out:  a number of replicas, asked for at the times at which each of them would.
DCF's is the code that runs (autoscaler.py, load_window.py); the others' are written
from what they publish, with their defaults. None knows the load that comes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from dcf.domain.load import FunctionLoad
from dcf.domain.scaling import ScalingPolicy
from dcf.scheduler import autoscaler
from dcf.scheduler.autoscaler import RULES, ScaleMemory, ScalingRules
from dcf.scheduler.load_window import LoadWindow
from scaling.cluster import Cluster, Rule

MAX_REPLICAS = 1000
POLICY = ScalingPolicy(min_replicas=1, max_replicas=MAX_REPLICAS)
SLOTS = 1

REPORT_S, REPORT_PAUSE_S, QUEUE_PAUSE_S, QUEUE_GROWTH = 1.0, 0.02, 0.25, 4
"""EVERY_S, PAUSE_S, QUEUE_PAUSE_S and QUEUE_GROWTH of gateway/load_publisher.py."""
TICK_S = 1.0 + 0.02
"""`tick_s` of the scheduler and PAUSE_S of its control loop."""
WAKE_S = 0.05
"""From an urgent report, or a replica's word that it is ready, to the decision: two hops, and a turn."""


class Dcf:
    """One gateway process and the scheduler."""

    def __init__(
        self,
        name: str = "dcf",
        policy: ScalingPolicy = POLICY,
        rules: ScalingRules = RULES,
        decide: Callable[..., autoscaler.Wish] = autoscaler.decide,
    ) -> None:
        self.name = name
        self._policy = policy
        self._rules = rules
        self._decide = decide
        self._window = LoadWindow("f", stable_s=rules.stable_window_s, burst_s=rules.burst_window_s)
        self._memory: ScaleMemory | None = None
        self._report: FunctionLoad | None = None
        self._reported_at = self._urged_at = -math.inf
        self._urged_for = 0
        self._regular_at = 0.0
        self._report_at = 0.0
        # Nobody keeps the gateway's second and the scheduler's in step.
        self._decide_at = 0.3
        self.next_at = 0.0

    def act(self, now_s: float, cluster: Cluster) -> None:
        """Report, or decide, whichever was planned."""
        if now_s >= self._report_at:
            self._say(now_s, cluster)
        if now_s >= self._decide_at:
            self._turn(now_s, cluster)
        self._plan()

    def on_queue(self, now_s: float, cluster: Cluster) -> None:
        """An urgent report, unless there was one a moment ago."""
        late = now_s - self._urged_at >= QUEUE_PAUSE_S
        if cluster.ready and not late and cluster.queued < QUEUE_GROWTH * self._urged_for:
            return
        self._urged_at, self._urged_for = now_s, cluster.queued
        self._report_at = max(now_s, self._reported_at + REPORT_PAUSE_S)
        self._decide_at = min(self._decide_at, self._report_at + WAKE_S)
        self._plan()

    def on_ready(self, now_s: float, cluster: Cluster) -> None:
        """A watcher's word wakes the scheduler as well."""
        self._decide_at = min(self._decide_at, now_s + WAKE_S)
        self._plan()

    def _plan(self) -> None:
        self.next_at = min(self._report_at, self._decide_at)

    def _say(self, now_s: float, cluster: Cluster) -> None:
        if cluster.arrivals:
            self._report = FunctionLoad(
                uid="f",
                busy_s=round(cluster.busy_s(now_s), 6),
                arrivals=cluster.arrivals,
                answered=cluster.answered,
                in_flight=cluster.running,
                queued=cluster.queued,
                handler_s=cluster.model.service_s,
                oldest_wait_s=max(0.0, round(now_s - cluster.oldest_at, 3)),
                slots=SLOTS,
            )
        self._reported_at = now_s
        while self._regular_at <= now_s:
            self._regular_at += REPORT_S
        self._report_at = self._regular_at

    def _turn(self, now_s: float, cluster: Cluster) -> None:
        self._decide_at = now_s + TICK_S
        self._window.add([("gateway", self._report)], now_s)
        load = self._window.facts(ready=cluster.ready, slots=SLOTS)
        if self._memory is None:
            self._memory = ScaleMemory(replicas=cluster.desired, since=now_s)
        wish = self._decide(load, self._policy, self._memory, slots=SLOTS, now_s=now_s, rules=self._rules)
        cluster.scale(wish.replicas, now_s)


class RayServe:
    """Ray Serve's default policy (`replica_queue_length_autoscaling_policy`, python/ray/serve/autoscaling_policy.py).

    Published in docs.ray.io/en/latest/serve/advanced-guides/advanced-autoscaling.html and AutoscalingConfig: handles
    record what runs and waits every 0.5 s and send the mean of look_back_period_s 30 every metrics_interval_s 10; the
    controller wants mean / target_ongoing_requests (2) replicas, rounded up, every 0.1 s; it acts once it has wanted
    more for upscale_delay_s 30, or less for downscale_delay_s 600, without a break; both factors are 1.
    max_ongoing_requests 5 shows nowhere here: a call that waits in a replica's own queue or at a handle counts alike,
    and the one queue of the model is the best that its router could do.
    """

    LOOP_S = 0.1
    RECORD_TURNS, PUSH_TURNS = 5, 100
    LOOK_BACK = 60
    """Records in 30 s."""
    UP_TURNS, DOWN_TURNS = 300, 6000

    def __init__(self, name: str = "ray serve", target: float = 2.0) -> None:
        self.name = name
        self._target = target
        self._turn = 0
        self._records: deque[int] = deque(maxlen=self.LOOK_BACK)
        self._wanted = 1
        self._counter = 0
        self.next_at = 0.0

    def act(self, now_s: float, cluster: Cluster) -> None:
        """One turn of the controller, and what the handle does in it."""
        if self._turn % self.RECORD_TURNS == 0:
            self._records.append(cluster.running + cluster.queued)
        if self._turn % self.PUSH_TURNS == 0:
            # The number of running replicas is in the ratio and before it, and cancels out.
            mean = sum(self._records) / len(self._records)
            self._wanted = min(max(1, math.ceil(mean / self._target)), MAX_REPLICAS)
        if self._wanted > cluster.desired:
            self._counter = max(self._counter, 0) + 1
        elif self._wanted < cluster.desired:
            self._counter = min(self._counter, 0) - 1
        else:
            self._counter = 0
        if self._counter > self.UP_TURNS or self._counter < -self.DOWN_TURNS:
            self._counter = 0
            cluster.scale(self._wanted, now_s)
        self._turn += 1
        self.next_at = self._turn * self.LOOP_S

    def on_queue(self, now_s: float, cluster: Cluster) -> None:
        """Nobody is told."""

    def on_ready(self, now_s: float, cluster: Cluster) -> None:
        """Nobody is told."""


class OpenFaas:
    """OpenFaaS Community's rule, by Prometheus and Alertmanager.

    Published in docs.openfaas.com/architecture/autoscaling and, with its times, in the chart of openfaas/faas-netes
    (prometheus-cfg.yaml, alertmanager-cfg.yaml): the alert APIHighInvocationRate, evaluated every 15 s from scrapes
    every 5 s, is true while the answers of 200 in 10 s are more than 5 a second, of the whole function, not of one
    replica, and fires after 5 s of that. Alertmanager tells the gateway after group_wait 5 s, again every
    repeat_interval 30 s while it fires, and its end at the next group_interval 10 s. The gateway
    (gateway/handlers/alerthandler.go) adds 20 % (scale.factor) of max (20) at each word, and goes back to min at the
    end. (Newer releases lower these two to 10 % and 5.) Neither load nor queue is measured, only that there are calls.
    """

    SCRAPE_S, EVALUATE_S = 5.0, 15.0
    GROUP_WAIT_S, GROUP_INTERVAL_S, REPEAT_S = 5.0, 10.0, 30.0
    RATE_PER_S, FOR_S = 5.0, 5.0
    MIN, MAX, FACTOR = 1, 20, 20

    name = "openfaas"

    def __init__(self) -> None:
        self._answered: deque[int] = deque([0, 0, 0], maxlen=3)
        self._scrape_at = self._evaluate_at = 0.0
        self._true_since: float | None = None
        self._firing = False
        self._tell_at = math.inf
        self._told_at = -math.inf
        self.next_at = 0.0

    def act(self, now_s: float, cluster: Cluster) -> None:
        """Scrape, evaluate, tell: whichever is due."""
        if now_s >= self._scrape_at:
            self._answered.append(cluster.answered)
            self._scrape_at += self.SCRAPE_S
        if now_s >= self._evaluate_at:
            self._evaluate(now_s)
            self._evaluate_at += self.EVALUATE_S
        if now_s >= self._tell_at:
            self._tell(now_s, cluster)
        self.next_at = min(self._scrape_at, self._evaluate_at, self._tell_at)

    def on_queue(self, now_s: float, cluster: Cluster) -> None:
        """Nobody is told."""

    def on_ready(self, now_s: float, cluster: Cluster) -> None:
        """Nobody is told."""

    def _evaluate(self, now_s: float) -> None:
        rate_per_s = (self._answered[-1] - self._answered[0]) / (2 * self.SCRAPE_S)
        if rate_per_s <= self.RATE_PER_S:
            self._true_since, self._firing = None, False
            return
        if self._true_since is None:
            self._true_since = now_s
        self._firing = now_s - self._true_since >= self.FOR_S
        if self._firing and self._tell_at == math.inf:
            self._tell_at = now_s + self.GROUP_WAIT_S

    def _tell(self, now_s: float, cluster: Cluster) -> None:
        self._tell_at = now_s + self.GROUP_INTERVAL_S
        if not self._firing:
            self._tell_at, self._told_at = math.inf, -math.inf
            cluster.scale(self.MIN, now_s)
        elif now_s - self._told_at >= self.REPEAT_S:
            self._told_at = now_s
            step = math.ceil(self.MAX * self.FACTOR / 100)
            cluster.scale(min(cluster.desired + step, self.MAX), now_s)


def rule_sets() -> list[Rule]:
    """One of each, as new; the first is ours."""
    aim = (POLICY.target or SLOTS) * POLICY.utilization
    return [Dcf(), RayServe(), RayServe(f"ray serve, target {aim:g}", aim), OpenFaas()]
