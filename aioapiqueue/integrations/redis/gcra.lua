-- The allocator of one quota, for all processes that share it: the arithmetic of
-- _limits/algorithms.py and adaptive.py on the server's clock. Each message is one call of this
-- script. This is its last part. Redis scripts have no modules, so _transport.py joins the parts:
-- gcra_figures.lua, gcra_limits.lua, gcra_ramp.lua, gcra_adaptive.lua, gcra_answers.lua,
-- gcra_budgets.lua, gcra_states.lua, gcra_refusals.lua, gcra_decisions.lua, gcra.lua.
--
-- Invariants:
-- - A slot is charged to the queue and to all its lanes in one call, or to none of them. A script
--   runs alone on the server, so no other process can take the room between the check and the
--   charge.
-- - Each slot is granted once, at an instant of the server's clock. If a reply is lost, its slots
--   stay charged, so that nothing is granted twice. A message that changes a sum has a number, and
--   counts once, however often it arrives.
-- - Instants never decrease: `last` is the latest slot of the queue, and of each lane.
-- - Processes take turns. One that finds no slot gets a round position, the last of the round.
--   There are as many positions as processes that have asked recently. For the queue, a position is
--   an instant at which to ask; for a lane, it is the slot itself. A process that does not ask
--   loses its position after a grace period, because it may be dead.
-- - All that is kept of a process is its position, its permits, its calls in flight and its last
--   number. Each expires some time after its last message, so that a dead process leaves nothing.
-- - A quota whose keys were written by another version is not changed: see gcra_figures.lua.
--
-- Cost: linear in the slots, lanes and changes of a message, whose number the sender bounds (see
-- planner.py and outbox.py), because the server serves no other client meanwhile.
--
-- It is GCRA (ITU-T I.371), as in redis-cell and throttled, which only answer whether a call may
-- start now. Here the answer may be a later instant, so that waiting needs no polling. A queue of
-- waiters on the server (a list, BLPOP) would need a connection for each waiter, and would lose a
-- slot with every waiter that dies.
--
-- Times are whole microseconds, which a double holds exactly until the year 2255.
--
-- KEYS[1]  the queue: the states of its limits, decisions of users, the clock
-- KEYS[2]  the processes that have asked recently: process -> when
-- KEYS[3]  the processes with permits of `concurrency`: process -> "permits:until:wanting until"
-- KEYS[4+] lanes, logs of windows, calls in flight, reservations, the number of the sender's last
--          message: the payload refers to each by its number
-- ARGV[1]  the kind of message
-- ARGV[2]  the instant, given only by tests; '': the server's clock
-- ARGV[3]  the payload, JSON: see _codec.py

-- A server that evicts keys would forget what was spent of a budget.
if payload.checks_memory then
  local info = redis.pcall('INFO', 'memory')
  local policy = type(info) == 'string' and string.match(info, 'maxmemory_policy:(%S+)')
  if policy ~= 'noeviction' then
    return {'evicts', policy or ''}
  end
end

-- The instant at which the data began: after a loss of data, clients find another epoch.
local epoch = read_queue('epoch', now, 1, LATEST / 2)
local queue = load(payload.queue)
local lanes, lines = {}, {}
if payload.follows and queue.follows == ALWAYS then
  queue.follows = now
end
for index, spec in ipairs(payload.lanes) do
  lanes[index] = load(spec)
  lanes[index].number = index
end
-- A line: the calls of one scope. Of each, its lanes, and the lane for which it has waited.
for index, line in ipairs(payload.lines or {}) do
  lines[index] = {waited_for = line[2]}
  for number, lane in ipairs(line[1]) do
    lines[index][number] = lanes[lane]
  end
end

-- Add the status of a state: the end of its hold, the rate after slow-downs, the bounds by API
-- servers' counts, when each limit has room for the next call ('-inf': unknown), and what is used of
-- each budget. In texts, as a reply has no fractions.
local function add_status(statuses, state)
  local rate, figures = NEVER, {as_text(blocked_until(state)), 'inf', '-inf', 0}
  if queue.follows > ALWAYS then
    figures[3] = as_text(math.max(0, state.counted))
  end
  for _, bound in ipairs(state.bounds) do
    if bound.place then
      figures[4] = figures[4] + 1
      for _, each in ipairs({bound.place, bound.left, bound.until_}) do
        figures[#figures + 1] = as_text(each)
      end
    end
  end
  for index = 1, #state.limits - state.extra do
    local limit = state.limits[index]
    local ready = limit.kind == 'b' and ALWAYS or limit:next_at(math.max(now, state.last), 1)
    if limit.kind == 'w' then  -- entries that end before the latest slot were skipped
      ready = math.max(ready, state.last)
    end
    if limit.kind == 'g' and limit.place == CALLS and lowered(limit.rate) then
      rate = limit.rate.value
    end
    if limit.kind ~= 'b' then  -- time makes no room in a budget
      figures[#figures + 1] = as_text(ready == NEVER and ALWAYS or ready)
    end
  end
  figures[2] = as_text(rate)
  if state.reported then
    add_uses(figures, state, queue.out_key)
  end
  statuses[#statuses + 1] = figures
end

-- Write everything, and return the reply: the statuses, then `...`.
local function finish(...)
  local idle_at, statuses = now, {}
  add_status(statuses, queue)
  local follows = queue.follows > ALWAYS
  if verb ~= 'leave' then
    note_in_flight(queue, follows)
  end
  for _, lane in ipairs(lanes) do
    if follows then
      -- A process that does not count by lane yet: at most all its calls in flight are of this
      -- lane.
      lane.in_flight = lane.in_flight or queue.in_flight
      note_in_flight(lane, true)
    end
    add_status(statuses, lane)
    idle_at = math.max(idle_at, save(lane))
    queue.lasts = queue.lasts or lane.lasts
    if lane.reported then
      save_reservations(lane)
    end
  end
  if queue.reported then
    save_reservations(queue)
  end
  local extra = {epoch = epoch, clock = now, skew = skew, layout = LAYOUT, seen = MARK}
  if revision > 0 then
    extra.rev, extra.conf = revision, queue_fields.conf
    idle_at = math.max(idle_at, now + SET)
  end
  -- Not before its lanes: without this key, the quota counts as new.
  idle_at = math.max(idle_at, save(queue, extra))
  if idle_at < NEVER then
    expire(KEYS[1], idle_at)
  end
  return {'ok', now, epoch, statuses, ...}
end

-- Return how many permits are free for this process, a function that stores how many it holds, how
-- many are held in all, and how many there are. Every message states how many the sender holds, so
-- that after a lost reply the next one corrects the number. A process that is silent for `lease` has
-- none.
local function count_permits()
  local limit = payload.concurrency
  for _, one in ipairs(queue.limits) do
    if one.kind == 'g' and lowered(one.permits) then
      limit = math.floor(one.permits.value)
    end
  end
  if not limit then
    return NEVER, function() end, permits, NEVER
  end
  local lease = math.min(payload.lease, YEAR)
  -- `wanting` processes share the permits equally: each is reserved the rest of its fair part.
  local others, wanting, holders, latest = 0, 1, {}, now + lease
  for process, held in pairs(hash(KEYS[3])) do
    local count, lives, wants = split(KEYS[3], 'places', held)
    count = figure(KEYS[3], 'places', count, nil, 0)
    lives = figure(KEYS[3], 'places until', lives, nil, nil, now + YEAR)
    wants = figure(KEYS[3], 'places wanted until', wants, nil, nil, now + YEAR)
    if lives <= now then
      redis.call('HDEL', KEYS[3], process)
    elseif process ~= sender then
      others, latest = others + count, math.max(latest, lives)
      if wants > now then
        wanting = wanting + 1
        holders[#holders + 1] = count
      end
    end
  end
  local fair, reserved = math.max(1, math.floor(limit / wanting)), 0
  for _, count in ipairs(holders) do
    reserved = reserved + math.max(0, fair - count)
  end
  local free = limit - others - permits
  free = math.min(free, math.max(fair - permits, free - reserved))
  return math.max(0, free), function(granted, wants_more)
    local holds, wants = permits + granted, wants_more and now + WANTING or 0
    if holds > 0 or wants > 0 then
      local text = string.format('%.0f:%.0f:%.0f', holds, now + lease, wants)
      redis.call('HSET', KEYS[3], sender, text)
      expire(KEYS[3], latest + KEEP)
    else
      redis.call('HDEL', KEYS[3], sender)
    end
  end, others + permits, limit
end

-- The kinds of messages. Each replies with `finish`.

-- Grant slots. It reads and writes the queue, the lanes of the requests and their logs, KEYS[2] and
-- KEYS[3].
local function ask()
  local requests, base = is_late and {} or payload.requests, now + payload.jitter
  redis.call('ZADD', KEYS[2], string.format('%.0f', now), sender)
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('(%.0f', now - RECENT))
  expire(KEYS[2], now + RECENT + KEEP)
  processes = redis.call('ZCARD', KEYS[2])
  on_idle(queue, now - payload.queue.waited)
  -- The highest and lowest costs of the requests, by place. Of each unit but calls, a process gets
  -- enough for one call at least, or a call that costs more than its share would never start.
  local highest, lowest, most_calls = {}, {}, 1
  for _, request in ipairs(requests) do
    for place, cost in ipairs(request[2]) do
      if place == CALLS then
        most_calls = math.max(most_calls, cost)
      elseif cost > 0 then
        highest[place] = math.max(highest[place] or 0, cost)
        lowest[place] = math.min(lowest[place] or NEVER, cost)
      end
    end
  end
  for index, lane in ipairs(lanes) do
    on_idle(lane, now - payload.lanes[index].waited)
    find_shares(lane, highest)
    local number = number_of(lane, lowest)
    lane.step = time_of(lane, function(place, interval)
      if #queue.limits == 0 then
        return used_by(lane, place, number, highest, most_calls)
      end
      -- Under limits of the queue, it gets slots of the lane only within `spare` of the queue's.
      return math.min(lane.shares[place], (highest[place] or 1) + math.floor(spare / interval))
    end)
  end
  local free, hold_permits, in_use, most_permits = count_permits()
  find_shares(queue, highest)
  for _, request in ipairs(requests) do
    -- A unit that some calls do not use says nothing about the number of slots.
    for place in pairs(lowest) do
      lowest[place] = (request[2][place] or 0) > 0 and lowest[place] or nil
    end
  end
  local fair = number_of(queue, lowest)
  local step = time_of(queue, function(place)
    return used_by(queue, place, fair, highest, most_calls)
  end)
  queue.shares[CALLS] = math.min(queue.shares[CALLS] or NEVER, payload.most)
  queue.left[CALLS] = queue.shares[CALLS]
  local granted, grants, stopped, position, short_of_permits = 0, {}, false, 0, false
  local patience = math.max(ahead / 2, PATIENCE)
  local closed_until, index = NEVER, 1  -- `index`: of the request that is looked at

  -- Grant no more to calls that use the queue's limit for which these costs wait.
  local function stop(gate, served, costs, place)
    close(queue, costs, place, index)
    if gate < closed_until or position == 0 then  -- NEVER is not less than NEVER
      closed_until, position = gate, next_position(queue, gate, now, step, served)
      if processes == 1 and granted > 0 then  -- no lane can have a slot before those granted
        position = math.max(position, queue.last - ahead / 2)
      end
    end
    return false
  end

  local retry_at, retried = NEVER, 0

  -- Postpone calls that use the limit of the lane for which these costs wait. `horizon` is the
  -- latest slot that could be used now: they are looked at again once it is late enough.
  local function postpone(lane, gate, horizon, from, grace, limited, short)
    if not lane.later or gate < lane.gate then
      lane.gate, lane.at, lane.from = gate, horizon, from
    end
    local turn = NEVER
    if lane.served or processes == 1 then
      turn = gate
    else
      turn = math.min(lane.position > 0 and lane.position or NEVER, lane.last_position)
      turn = math.min(turn, gate + grace + 1)
    end
    local takes_at = math.max(gate, turn)
    local retry_lane_at = (limited and not short) and takes_at - (horizon - from) or NEVER
    lane.retry = math.min(lane.later and lane.retry or NEVER, retry_lane_at)
    lane.later, retry_at = true, math.min(retry_at, lane.retry)
    return false
  end

  -- Return whether a line is behind a call that waits for one of its lanes. Then it waits for that
  -- lane, too: for the one for which it waited before, if that is one of them; else for the last to
  -- have room.
  local function is_behind(line, costs)
    local behind = nil
    for _, lane in ipairs(line) do
      if lane.later and is_closed_for(lane, costs, index) then
        local is_same = behind and behind.number == line.waited_for
        if not behind or lane.number == line.waited_for
          or not is_same and lane.gate > behind.gate then
          behind = lane
        end
      end
    end
    if behind and not (line.waits_for and line.waits_for.later) then
      line.waits_for = behind
    end
    return behind ~= nil
  end

  -- Look again at postponed lanes that may be due, because the queue's next slot is later now.
  local function retry(at)
    retry_at, retried = NEVER, granted
    for _, lane in ipairs(lanes) do
      if lane.later and lane.retry <= at then
        lane.later, lane.closed = false, {}
      elseif lane.later then
        retry_at = math.min(retry_at, lane.retry)
      end
    end
  end

  -- Return the instants at which the lanes of a line have room, the slot that follows, and the
  -- latest that could be used.
  local function look(line, costs, at, limited, its_ahead)
    local from, whens, places = limited and at or base, {}, {}
    local slot, soonest, latest = at, NEVER, ALWAYS
    for number, lane in ipairs(line) do
      local when, _, place = gate_of(lane, from, costs)
      whens[number], places[number] = when, place
      slot, soonest, latest = math.max(slot, when), math.min(soonest, when), math.max(latest, when)
    end
    -- A lane that is due much later than the queue must not keep the queue's slot until then; one
    -- that is due within `spare` makes it a late slot. Nor must one of several lanes keep
    -- another's.
    local together = #line == 1 or latest - soonest <= spare
    local early = (not limited and together) and its_ahead or spare
    return from, whens, slot, #line > 1 and math.max(early, spare) or early, places
  end

  -- Try to grant a slot to a request. Return true if that was done, or if postponed lanes are open
  -- again; else false: then the request has closed the limits for which it waits.
  local function grant(request)
    local costs, line = request[2], lines[request[1]] or {}
    local rank = request.served and request[5] or request[4]
    local free_at, limited, place = gate_of(queue, base, costs)
    -- A budget lends nothing ahead of time, and a call that has to raise must not wait.
    local is_now = payload.raises and can_raise({queue, unpack(line)}, costs)
    local its_ahead = is_now and 0 or ahead
    local gate, at = free_at - its_ahead - payload.jitter, math.max(base, free_at)
    if granted >= free then
      stopped, short_of_permits = true, true
      return false
    elseif is_short(queue, costs) or limited and granted >= payload.slots then
      return stop(gate, true, costs, place)
    elseif granted >= payload.slots then  -- enough work at once
      stopped = true
      return false
    elseif at >= retry_at and granted > retried then
      retry(at)
      return true
    end
    local from, whens, slot, early, places = look(line, costs, at, limited, its_ahead)
    local horizon, grace = from + early, limited and spare or patience
    local waits_at, had_turn = nil, false
    for number, lane in ipairs(line) do
      local turn = lane.served or is_reserved_by(lane, line)
      local short = is_short(lane, costs, lane.shares)
      if is_kept_from(lane, line, slot, costs, rank) then
        -- It asks again when the reservation has been used, or is late.
        local ask_at = math.max(lane.reserved.at, base + RECHECK)
        whens[number], short = math.max(whens[number], ask_at + horizon - base), true
      end
      if lane.number == line.waited_for and not short then
        -- As far ahead as a call of that lane alone, or it could never have its turn before those.
        local latest = from + (limited and spare or its_ahead)
        had_turn = may_take(lane, whens[number], math.max(horizon, latest), turn, grace)
      end
      if short or not may_take(lane, whens[number], horizon, turn, grace) then
        -- It keeps its place at the lane where it waited until it has had its turn there.
        local is_same = waits_at and line[waits_at].number == line.waited_for
        if lane.number == line.waited_for or not waits_at
          or not is_same and whens[number] > whens[waits_at] then
          waits_at = number
        end
      end
      lane.short = short
    end
    if waits_at and reserve(line, whens, had_turn, waits_at, costs, rank) and slot <= horizon then
      waits_at = nil
    end
    if waits_at then
      local lane = line[waits_at]
      line.waits_for = lane
      close(lane, costs, places[waits_at], index)
      return postpone(lane, whens[waits_at], horizon, from, grace, limited, lane.short)
    end
    if is_short(queue, costs, queue.shares) then
      return stop(gate, true, costs, place)
    elseif not may_take(queue, gate, now, granted > 0, patience) then
      return stop(gate, granted > 0, costs, place)
    end
    local until_ = consume(queue, at, costs, slot)
    take_share(queue, costs)
    for _, lane in ipairs(line) do
      until_ = math.min(until_, consume(lane, slot, costs, slot))
      take_share(lane, costs)
      lane.served = true
    end
    end_reservation(line)
    granted, request[3], request.served = granted + 1, request[3] - 1, true
    local count = #grants
    grants[count + 1], grants[count + 2] = index, slot
    grants[count + 3] = math.max(slot, math.floor(until_))
    return true
  end

  -- Each slot goes to the first request whose lanes are due by then. Requests before `index` have
  -- no calls left, or wait for closed limits: they are looked at again, `from` the first one with
  -- calls left, only when `retry` has opened a lane.
  local from, last = 1, nil
  while index <= #requests and not stopped do
    local request = requests[index]
    if request[3] == 0 then
      from = index == from and from + 1 or from
      index = index + 1
    elseif is_behind(lines[request[1]] or {}, request[2])
      or is_closed_for(queue, request[2], index) then
      index = index + 1
    else
      local before = granted
      if not grant(request) then
        index = index + 1
      elseif granted > before then
        last = request[2]
      else
        index = from
      end
    end
  end
  if granted > 0 and closed_until == NEVER and not stopped and is_used_up(queue) then
    -- It has had its share, and asks again at its next turn.
    local free_at = gate_of(queue, now, last)
    stop(free_at - ahead - payload.jitter, true, last)
  end

  local postponements, positions = {}, {}
  for number, line in ipairs(lines) do
    local lane = line.waits_for
    if lane and lane.later then
      local its = positions[lane]
      if not its then
        its = next_position(lane, lane.gate, lane.at, lane.step, lane.served)
        positions[lane] = its
      end
      local ask_at = its - (lane.at - base)
      if is_reserved_by(lane, line) and lane.reserved.at - spare > now then
        ask_at = lane.reserved.at - spare
      end
      -- While the queue's slot is in the future, `horizon` stays the same until a call takes that
      -- slot.
      local soonest = math.min(now + SOON, lane.from - payload.jitter)
      ask_at = math.max(now + 1, soonest, ask_at)
      for _, figure in ipairs({number, lane.number, its, ask_at}) do
        postponements[#postponements + 1] = math.min(LATEST, figure)
      end
    end
  end
  hold_permits(granted, short_of_permits)
  local short, refusals = short_of_permits and 1 or 0, nil
  if payload.raises then
    local has_permits = not payload.permits_raise or in_use + granted < most_permits
    refusals = find_refusals(queue, lines, requests, base, has_permits)
  end
  fair, position = math.min(fair, 1e6), math.min(LATEST, position)
  return finish(fair, position, short, grants, postponements, refusals)
end

-- Return the function for each verb. All but `ask` are made inside, as in gcra_decisions.lua, so
-- that `ask`, the most frequent message, does not pay for them.
local function handlers()
  -- Return whether a message is new: one without a reply is sent again, perhaps by redis-py itself.
  local function is_new()
    if not payload.number then
      return true
    end
    local key, number, kept = KEYS[payload.number[1]], payload.number[2], payload.number[3]
    local _, read = hash(key)
    if number <= read('said', 0, 0) then
      return false
    end
    redis.call('HSET', key, 'said', number)
    expire(key, now + kept)
    return true
  end

  local function hold(state, until_)
    state.held_until = math.min(LATEST, math.max(state.held_until, until_))
  end

  -- Also "adjust" and "return": charge what calls have cost in the end, or return slots.
  local function renew()
    local _, hold_permits = count_permits()
    hold_permits(0, false)
    local changes = is_new() and payload.changes or {}
    -- The latest first: a pace takes back only its latest slot, and then the one before it.
    table.sort(changes, function(one, other) return one[2] > other[2] end)
    for _, change in ipairs(changes) do
      local numbers, at, costs, charged, started, late = unpack(change)
      adjust(queue, at, costs, charged, started, late)
      for _, number in ipairs(numbers) do
        adjust(lanes[number], at, costs, charged, started, late)
      end
    end
    return finish()
  end

  local function slow_down()
    local state, backed_off = lanes[1] or queue, 0
    if payload.hold then
      hold(state, now + payload.hold)
    end
    if is_new() then
      local _, _, running = count_permits()
      for _, limit in ipairs(state.limits) do
        if limit.kind == 'g' and limit:slow_down(payload.released_at, running) then
          backed_off = 1
        end
      end
    end
    return finish(backed_off)
  end

  local function take_decisions()
    local paused_until, outdated = exchange()
    if paused_until < queue.paused_until then
      queue.last_position = ALWAYS
    end
    -- A pause that has been resumed ends now: slots that it has missed are not made up for.
    queue.paused_until = math.max(paused_until, math.min(queue.paused_until, now))
    for _, each in ipairs(payload.holds) do
      hold(lanes[each[1]] or queue, each[2])
    end
    return finish(revision, outdated and 1 or 0)
  end

  local function take_counts()
    for _, count in ipairs(payload.counts) do
      sync(queue, lanes[count.lane] or queue, count)
    end
    return finish()
  end

  local function first_ended()
    if payload.answered then
      note_answer(queue)
      for _, lane in ipairs(lanes) do
        note_answer(lane)
      end
    end
    return finish()
  end

  local function leave()
    redis.call('ZREM', KEYS[2], sender)
    redis.call('HDEL', KEYS[3], sender)
    redis.call('HDEL', queue.out_key, sender)
    redis.call('DEL', KEYS[payload.number[1]])
    return finish()
  end

  return {
    ask = ask, renew = renew, adjust = renew, ['return'] = renew, slowdown = slow_down,
    decide = take_decisions, sync = take_counts, firstended = first_ended, leave = leave,
  }
end

return handlers()[verb]()
