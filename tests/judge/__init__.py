"""One judge for all options of a queue together.

Each feature has tests of its own; people use several at once. `plan.draw` draws a history of a
queue from a seed: its limits and lanes, and what happens to it. `trial.play` plays it on a real
queue in virtual time. `model` keeps slow, obvious ledgers beside it, which share no code with the
library, and `trial` judges by them:

- no limit is exceeded, and nothing starts during a pause or a hold (promises 1, 10 and 14);
- of calls that differ in nothing but their arrival, none overtakes another (promise 3);
- a call for which all limits have room, and which is first at each of them, starts; nor do calls
  hold each other up that all have room (promise 5);
- a call is refused when a limit has no room for it and nothing can come back, and not before;
- some time after the last event, no call waits at all.

Run `python -m tests.judge SEED SIZE` to repeat a history; it is reduced to what matters.

What is drawn: several keys and patterns, orders, weights, priorities, rates, bursts, ramps,
windows, calendars, permits, `concurrency=`, budgets, `or raise`, costs in several units,
settlements up and down, `sync`, `adaptive=`, pause, hold, resume, throttling, `set_rate` to any
other limits, cancellation while a call waits, as it is granted and before its slot is used,
time-outs, `slot`, `enqueue`, `try_slot`, `map`.

What it does not cover:

- Learnt limits, `maxsize=`, `strict_lanes=`, threads, trio, several event loops, processes that
  come and go, and lost connections.
- Shares of weights, and whose turn it is in fair order: only that somebody starts.
- Refunds are bounded, not computed: a call that starts too late by what was refunded is not
  noticed, nor one that starts too early by less than `catch_up`, or by less than the excess of a
  cost above the burst.
- After `set_rate` of limits, after `sync`, and with `adaptive=`, only that nothing is exceeded and
  that no call waits for ever. Calendars are judged by the hour before each call, not by the clock.
- On a hub, calls enter again when limits change: a call that costs more than the burst waits for
  the excess from then on. On a server, calendars and permits of lanes do not exist.
- Ramps have the bound of their docstring, and while calls wait, their floor. How fast they grow is
  judged by `tests/limits/test_ramps.py`, whatever calls settle.
"""
