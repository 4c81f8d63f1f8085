-- The allocator of one quota, for all processes that share it: the arithmetic of _algorithms.py and
-- adaptive.py on the server's clock. Every message is one call of this script. It goes on from
-- gcra_figures.lua and gcra_limits.lua: a server has no modules, so _transport.py joins them.
--
-- What holds:
-- - A slot is charged to the queue and to its lanes in one call, or to none of them.
-- - Each slot is granted once, at an instant of the server's clock. A reply that is lost leaves its
--   slots charged, so that nothing is granted twice; a message that changes a sum has a number, and
--   counts once, however often it arrives.
-- - Instants never decrease: `last` is the latest slot, of the queue and of each lane.
-- - Processes take turns. One that finds no slot gets a round position, the last in line; the line
--   is as long as there are processes that have asked lately. In the queue's line a position is an
--   instant to ask at; in a lane's it is the slot to be had. One that does not come loses its place
--   after a grace period, as nobody can know whether it is slow or dead.
-- - Nothing is kept for a process but its place in line and its permits: these are leased, so that
--   one that dies leaves nothing behind.
-- - A quota whose keys another version has written is left as it is: see gcra_figures.lua.
-- The work is linear in what is asked for: a server does nothing else meanwhile.
--
-- It is GCRA (ITU-T I.371) as in redis-cell and throttled, which answer for one call at once. Here
-- the answer may be a later instant, so that waiting costs no polling. A queue of waiters on the
-- server (a list, BLPOP) would need a connection for each, and would lose a slot with every waiter
-- that dies.
--
-- Times are whole microseconds, which a double holds exactly until the year 2255.
--
-- KEYS[1]  the queue: its limits' state, what `set_rate` has set, the clock
-- KEYS[2]  who has asked lately: process -> when
-- KEYS[3]  who holds permits of `concurrency`: process -> "permits:until:wanting until"
-- KEYS[4+] lanes, the logs of windows, and the number of a process's last message: see the payload
-- ARGV[1]  the kind of message, ARGV[2] the instant (tests give it; '': the server's clock)
-- ARGV[3]  the payload, JSON: see _codec.py

local KEEP = 2e6          -- an idle key lives so much longer than it can be told from a new one
local PAUSED = 86400e6    -- what is paused without end is remembered for a day without a caller
local SET = 3600e6        -- so is for an hour what `set_rate` has set
local RECENT = 1.5e6      -- who has asked since is taken to be waiting: everybody asks every second
local WANTING = 300e3     -- who wants permits asks every 100 ms, so that two requests may be lost
local HELD = 100e3        -- a reservation is kept for so long after its instant
local RECHECK = 5e3       -- until then, one that is late may have come, and have taken its slot
local PATIENCE = 20e3     -- a request that is on its way for so long is not late yet

local sender, permits = payload.sender, payload.permits

-- The state of the queue's limits, or of a lane's.

local CALLS = 1           -- the place of calls in costs; each limit counts the unit of its place
local KINDS = {r = TokenBucket, w = SlidingWindow, g = AdaptiveRate}
local KEPT = {
  {'held', 'held_until', ALWAYS},         -- by the other side's push-back
  {'last', 'last', ALWAYS, nil, now + YEAR},
  {'turn', 'last_position', ALWAYS},      -- the latest round position that was given out
  {'fixed', 'mended_until', ALWAYS},      -- positions up to this one are known to be early
}

local RESERVED = {
  {'for_at', 'at', ALWAYS, nil, now + YEAR},
  {'for_until', 'lapses', ALWAYS, nil, now + 2 * YEAR},
}

local function load(spec)
  local state = {key = KEYS[spec.key], limits = spec.limits, position = spec.round_position or 0}
  local fields, read, figures = hash(state.key)
  local counts = {}
  state.figures = figures
  state.fields, state.intervals = fields, {}
  for _, limit in ipairs(spec.limits) do
    -- By kind, unit and number: of other limits, each takes over from that of its kind and unit in
    -- its place. (Not by the unit's place, which may be another one in each process.)
    local kind = limit.kind .. (limit.unit and '[' .. limit.unit .. ']' or '')
    counts[kind] = (counts[kind] or 0) + 1
    limit.name, limit.place = kind .. counts[kind] .. ':', limit.place or CALLS
    setmetatable(limit, {__index = KINDS[limit.kind]})
    limit:load(read, limit.name, state.key, fields)
    local slowest = math.max(state.intervals[limit.place] or 0, limit.interval or 0)
    state.intervals[limit.place] = slowest
  end
  load_figures(state, KEPT, read, '')
  if fields['for'] then
    local costs = {}
    for cost in string.gmatch(fields.for_costs or '', '%S+') do
      costs[#costs + 1] = figure(state.key, 'for_costs', cost, nil, 0, HUGE)
    end
    state.reserved = {line = fields['for'], costs = costs}
    load_figures(state.reserved, RESERVED, read, '')
  end
  state.paused_until = fields.paused == 'inf' and NEVER or read('paused', ALWAYS)
  return state
end

-- Return the latest instant that its limits name, or `when` if that is later.
local function latest_of(state, when, method, ...)
  for _, limit in ipairs(state.limits) do
    when = math.max(when, limit[method](limit, ...))
  end
  return when
end

local function blocked_until(state)
  return math.max(state.held_until, state.paused_until)
end

-- What a call of some costs uses of a limit. Where it uses nothing of its unit, the limit does not
-- concern it.
local function cost_at(limit, costs)
  return costs[limit.place] or 0
end

-- Return when a state has room for costs that start at `from` or later, and whether any limit of it
-- is concerned at all. Instants never decrease, where one is.
local function gate_of(state, from, costs)
  local when, concerned = blocked_until(state), false
  local at = math.max(from, state.last)
  for _, limit in ipairs(state.limits) do
    local cost = cost_at(limit, costs)
    if cost ~= 0 then
      when, concerned = math.max(when, limit:next_at(at, cost)), true
    end
  end
  return concerned and math.max(when, state.last) or when, concerned
end

local function expire(key, at)
  redis.call('PEXPIRE', key, string.format('%.0f', math.ceil((math.min(at, LATEST) - now) / 1000)))
end

-- Write a state back; return when it may be forgotten.
local function save(state, extra)
  local flat, absent = {}, {}
  local function set(name, value, most)
    if value == ALWAYS or value == NEVER or value == '' then
      if state.fields[name] then
        absent[#absent + 1] = name
      end
      return
    elseif value == state.figures[name] or value == state.fields[name] then
      return  -- most are as they were, and so is when they may be forgotten
    elseif type(value) == 'number' then  -- no more than is read again
      value = string.format('%.17g', math.max(-LATEST, math.min(most or LATEST, value)))
    end
    flat[#flat + 1] = name
    flat[#flat + 1] = value
  end
  for _, limit in ipairs(state.limits) do
    limit:save(set, limit.name)
  end
  save_figures(state, KEPT, set, '')
  set('paused', state.paused_until == NEVER and 'inf' or state.paused_until)
  local reserved = state.reserved or {line = '', costs = {}, at = ALWAYS, lapses = ALWAYS}
  set('for', reserved.line)
  set('for_costs', table.concat(reserved.costs, ' '))
  save_figures(reserved, RESERVED, set, '')
  for name, value in pairs(extra or {}) do
    set(name, value)
  end
  if #flat > 0 then
    redis.call('HSET', state.key, unpack(flat))
  end
  if #absent > 0 then
    redis.call('HDEL', state.key, unpack(absent))
  end
  if #flat + #absent == 0 then
    return now
  end
  local idle_at = math.max(blocked_until(state), state.last_position, now)
  idle_at = latest_of(state, idle_at, 'idle_at')
  idle_at = idle_at == NEVER and now + PAUSED or idle_at + KEEP
  expire(state.key, idle_at)
  for _, limit in ipairs(state.limits) do
    if limit.kind == 'w' then
      expire(limit.log, idle_at)
    end
  end
  return idle_at
end

local function on_idle(state, at)
  for _, limit in ipairs(state.limits) do
    limit:on_idle(at)
  end
end

-- Charge what is due `at` and is to start at `slot`; return until when it may, so that in all it is
-- no later than catch_up.
local function consume(state, at, costs, slot)
  local latest = slot + catch_up
  local held_until = blocked_until(state)
  for _, limit in ipairs(state.limits) do
    local cost = cost_at(limit, costs)
    if cost ~= 0 then
      latest = math.min(latest, limit:consume(at, cost, held_until, slot))
      state.last = math.max(state.last, at)
    end
  end
  return latest
end

local function adjust(state, at, costs)
  for _, limit in ipairs(state.limits) do
    local cost = cost_at(limit, costs)
    if cost ~= 0 then
      limit:adjust(at, cost)
    end
  end
  if verb == 'return' and at == state.last then
    state.last = at - 1
    local limit = state.limits[1]
    if #state.limits == 1 and limit.kind == 'r' and limit.burst == 1 then
      state.last = math.min(state.last, limit.charged)  -- that before it
    end
  end
end

local processes = 1  -- how many are taken to be waiting

-- Note what this one may have at once, by place: its share of what there is, but at least one call.
-- (`dearest`: what the dearest that is asked for costs.)
local function find_shares(state, dearest)
  local shares, left = {}, {}
  for _, limit in ipairs(state.limits) do
    local share = math.max(dearest[limit.place] or 1, math.floor(limit:room() / processes))
    shares[limit.place] = math.min(share, shares[limit.place] or NEVER)
    left[limit.place] = shares[limit.place]
  end
  state.shares, state.left = shares, left
end

-- Return whether what is left of its share is too little for these costs; those above `most` by
-- place are as good as that, as they would have to wait for ever.
local function is_short(state, costs, most)
  for place, left in pairs(state.left) do
    local cost = costs[place] or 0
    if left < math.min(cost, most and most[place] or 1) then
      return true
    end
  end
  return false
end

local function is_used_up(state)
  for _, left in pairs(state.left) do
    if left < 1 then
      return true
    end
  end
  return false
end

local function take_share(state, costs)
  for place, left in pairs(state.left) do
    state.left[place] = left - (costs[place] or 0)
  end
end

-- Return how long it takes to pay off amounts by place: the longest of the limits.
local function time_of(state, amount_at)
  local time = 0
  for place, interval in pairs(state.intervals) do
    if interval > 0 then
      time = math.max(time, amount_at(place, interval) * interval)
    end
  end
  return time
end

-- Round positions. `at` is what this request is about: the instant at which it asks, or in a lane
-- the latest slot that it could use. `gate` is the first that is free. A process that is `served`
-- by this request goes to the end of the line, and one whose turn it is goes first.

local function is_its_turn(state, at)
  return state.position > 0 and state.position <= at
end

-- A slot that has been free for `grace` goes to the first that asks: somebody did not come.
local function may_take(state, gate, at, served, grace)
  return gate <= at and (served or is_its_turn(state, at) or state.last_position <= at
    or gate < at - grace or processes == 1)
end

local function next_position(state, gate, at, step, served)
  if gate == NEVER then
    return at + 1e6
  end
  local last = gate + (processes - 1) * step  -- of as many as there are
  if served or not is_its_turn(state, at) then
    if not served and state.position > at then
      return math.min(state.position, last)
    end
    state.last_position = math.min(math.max(gate, state.last_position + step), last)
    if served and is_its_turn(state, at) then  -- by what it has had, however late it came
      local round = processes * time_of(state, function(place)
        return state.shares[place] - state.left[place]
      end)
      return math.max(gate, math.min(state.last_position, state.position + round))
    end
    return state.last_position
  elseif state.position > state.mended_until then  -- a slot was lost, the line is early: mend it
    state.mended_until = math.max(state.last_position, state.position)
    state.last_position = math.min(state.mended_until + gate - state.position, last)
  end
  return gate
end

-- Reservations. A call under several lanes would never start if others used up one of them whenever
-- another has room. So a line that had its turn at the lane where it stood, and found another one
-- closed, reserves all of them until the instant at which all have room; its turn there is that
-- instant. Others may take only what leaves room for it then. One that does not come loses it.

local function name_of(line)
  if not line.name then
    local names = {}
    for number, lane in ipairs(line) do
      names[number] = lane.key
    end
    line.name = sender .. ' ' .. table.concat(names, ' ')
  end
  return line.name
end

local function is_reserved_by(lane, line)
  return lane.reserved and #line > 1 and lane.reserved.line == name_of(line)
end

-- Return whether a slot of this line would delay another line that has reserved the lane.
local function is_kept_from(lane, line, slot, costs)
  local reserved = lane.reserved
  if not reserved or reserved.lapses < now or is_reserved_by(lane, line) then
    return false
  end
  local leaves_room = slot <= reserved.at
  for _, limit in ipairs(lane.limits) do
    local cost, held = cost_at(limit, costs), cost_at(limit, reserved.costs)
    if cost ~= 0 and held ~= 0 then
      leaves_room = leaves_room and limit:leaves_room(slot, cost, held, reserved.at)
    end
  end
  return not leaves_room
end

-- Reserve the lanes of a line which has to wait for one of them; return whether that was done.
local function reserve(line, whens, had_turn, stands, costs)
  local at = ALWAYS
  for number, lane in ipairs(line) do
    local reserved = lane.reserved
    if reserved and reserved.lapses >= now and not is_reserved_by(lane, line) then
      return false
    end
    at = math.max(at, whens[number])
  end
  local again = is_reserved_by(line[stands], line)
  if #line < 2 or at > now + YEAR or not (again or had_turn) then
    return false
  end
  for _, lane in ipairs(line) do
    lane.reserved = {
      line = name_of(line), costs = costs, at = at, lapses = at + HELD + 2 * payload.jitter,
    }
  end
  return not again
end

local function end_reservation(line)
  for _, lane in ipairs(line) do
    if is_reserved_by(lane, line) then
      lane.reserved = nil
    end
  end
end

-- What `set_rate` has set.
local epoch = read_queue('epoch', now, 1, LATEST / 2)
local revision = read_queue('rev', 0, 0, LATEST / 2)
local restoring = verb == 'restorelimits'
if revision % 1 > 0 or revision > 0 and not queue_fields.conf then
  -- What both sides cannot read alike, they would send each other without end.
  refuse(KEYS[1], queue_fields.conf and 'rev' or 'no conf, but rev', queue_fields.rev)
elseif payload.revision < revision then
  return {'limits', revision, queue_fields.conf}
elseif restoring then  -- that does not make it newer: somebody may know later limits
  revision, queue_fields.conf = payload.revision, payload.limits
elseif verb == 'setlimits' then
  -- New ones have an instant, so that none is ever given out twice, be it by another server.
  revision, queue_fields.conf = math.max(payload.revision + 1, now), payload.limits
elseif payload.revision > revision then
  return {'forgotten'}  -- the server knows less than this process
end

local queue = load(payload.queue)
local lanes, lines = {}, {}
for index, spec in ipairs(payload.lanes) do
  lanes[index] = load(spec)
  lanes[index].number = index
end
for index, line in ipairs(payload.lines or {}) do  -- lanes, and the number of one among them
  lines[index] = {stood = line[2]}
  for number, lane in ipairs(line[1]) do
    lines[index][number] = lanes[lane]
  end
end

-- Add how things stand: until when all is held, what push-back has left, and when each limit has
-- room for the next call ('-inf': unknown).
local function add_status(statuses, state)
  local rate, figures = NEVER, {}
  for index, limit in ipairs(state.limits) do
    local ready = limit:next_at(math.max(now, state.last), 1)
    if limit.kind == 'w' then  -- it has passed over what ends before the latest slot
      ready = math.max(ready, state.last)
    end
    if limit.kind == 'g' and lowered(limit.rate) then
      rate = limit.rate.value
    end
    figures[index] = string.format('%.17g', ready == NEVER and ALWAYS or ready)
  end
  table.insert(figures, 1, string.format('%.17g', rate))
  table.insert(figures, 1, string.format('%.17g', blocked_until(state)))
  statuses[#statuses + 1] = figures
end

-- Write everything; reply, with how things stand first.
local function finish(...)
  local idle_at, statuses = now, {}
  add_status(statuses, queue)
  for _, lane in ipairs(lanes) do
    add_status(statuses, lane)
    idle_at = math.max(idle_at, save(lane))
  end
  local extra = {epoch = epoch, clock = now, skew = skew, layout = LAYOUT, seen = MARK}
  if revision > 0 then
    extra.rev, extra.conf = revision, queue_fields.conf
    idle_at = math.max(idle_at, now + SET)
  end
  expire(KEYS[1], math.max(idle_at, save(queue, extra)))
  return {'ok', now, epoch, statuses, ...}
end

-- Return how many permits are free for this process, a function that notes what it was granted, and
-- how many are held in all. Each request has the number of its sender, so that a lost reply leaves
-- nothing behind; a process that is silent for `lease` has none.
local function count_permits()
  local limit = payload.concurrency
  for _, one in ipairs(queue.limits) do
    if one.kind == 'g' and lowered(one.permits) then
      limit = math.floor(one.permits.value)
    end
  end
  if not limit then
    return NEVER, function() end, permits
  end
  local lease = math.min(payload.lease, YEAR)
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
  end, others + permits
end

-- Return whether a message is new: one without a reply is sent again, perhaps by the client itself.
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

if verb == 'ask' then
  local requests, base = payload.requests, now + payload.jitter
  redis.call('ZADD', KEYS[2], string.format('%.0f', now), sender)
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('(%.0f', now - RECENT))
  expire(KEYS[2], now + RECENT + KEEP)
  processes = redis.call('ZCARD', KEYS[2])
  on_idle(queue, now - payload.queue.waited)
  -- Calls are counted one by one; of another unit, a process gets enough for one call at least.
  local dearest, cheapest = {}, {}
  for _, request in ipairs(requests) do
    for place, cost in ipairs(request[2]) do
      if place ~= CALLS and cost > 0 then
        dearest[place] = math.max(dearest[place] or 0, cost)
        cheapest[place] = math.min(cheapest[place] or NEVER, cost)
      end
    end
  end
  for index, lane in ipairs(lanes) do
    on_idle(lane, now - payload.lanes[index].waited)
    find_shares(lane, dearest)
    lane.step = time_of(lane, function(place, interval)
      if #queue.limits == 0 then
        return lane.shares[place]
      end  -- under a limited queue, it has only what falls within that
      return math.min(lane.shares[place], (dearest[place] or 1) + math.floor(spare / interval))
    end)
  end
  local free, hold_permits = count_permits()
  find_shares(queue, dearest)
  local step = time_of(queue, function(place) return queue.shares[place] end)
  local fair = queue.shares[CALLS] or NEVER
  for place, share in pairs(queue.shares) do
    if place ~= CALLS and cheapest[place] then
      fair = math.min(fair, math.max(1, math.ceil(share / cheapest[place])))
    end
  end
  queue.shares[CALLS] = math.min(queue.shares[CALLS] or NEVER, payload.most)
  queue.left[CALLS] = queue.shares[CALLS]
  local granted, grants, stopped, position, short_of_permits = 0, {}, false, 0, false
  local patience = math.max(ahead / 2, PATIENCE)
  local closed, closed_until = {}, NEVER

  -- No more for calls that use all the limits of the queue for which these costs wait.
  local function stop(gate, served, costs)
    closed[#closed + 1] = costs
    if gate < closed_until then
      closed_until, position = gate, next_position(queue, gate, now, step, served)
      if processes == 1 and granted > 0 then  -- none of its lanes can have a slot before those
        position = math.max(position, queue.last - ahead / 2)
      end
    end
    return false
  end

  local function is_closed_for(costs)
    for _, waiting in ipairs(closed) do
      local all = true
      for _, limit in ipairs(queue.limits) do
        local place = limit.place
        all = all and ((waiting[place] or 0) == 0 or (costs[place] or 0) > 0)
      end
      if all then
        return true
      end
    end
    return false
  end

  local retry_at, retried = NEVER, 0

  -- Let a lane be, and all that come under it behind the one that waits there, until `horizon`, the
  -- latest slot that could be used, is late enough.
  local function postpone(lane, gate, horizon, from, grace, limited, short)
    lane.later, lane.gate, lane.at = true, gate, horizon
    local turn = NEVER
    if lane.served or processes == 1 then
      turn = gate
    else
      turn = math.min(lane.position > 0 and lane.position or NEVER, lane.last_position)
      turn = math.min(turn, gate + grace + 1)
    end
    local takes_at = math.max(gate, turn)
    lane.retry = (limited and not short) and takes_at - (horizon - from) or NEVER
    retry_at = math.min(retry_at, lane.retry)
    return false
  end

  local function is_later(line)
    for _, lane in ipairs(line) do
      if lane.later then
        return true
      end
    end
    return false
  end

  -- Look again at lanes that may be due by now, as the queue's next slot is later than it was.
  local function retry(at)
    retry_at, retried = NEVER, granted
    for _, lane in ipairs(lanes) do
      if lane.later and lane.retry <= at then
        lane.later = false
      elseif lane.later then
        retry_at = math.min(retry_at, lane.retry)
      end
    end
  end

  -- Return the instants at which the lanes of a line have room, the slot that follows, and the
  -- latest that could be used.
  local function look(line, costs, at, limited)
    local from, whens = limited and at or base, {}
    local slot, soonest, latest = at, NEVER, ALWAYS
    for number, lane in ipairs(line) do
      local when = gate_of(lane, from, costs)
      whens[number] = when
      slot, soonest, latest = math.max(slot, when), math.min(soonest, when), math.max(latest, when)
    end
    -- A lane that is due later than the queue must not hold up the queue's slot until then; one
    -- that is due soon makes it a late one. Nor must one of several lanes hold up another.
    local together = #line == 1 or latest - soonest <= spare
    local early = (not limited and together) and ahead or spare
    return from, whens, slot, #line > 1 and math.max(early, spare) or early
  end

  -- Return whether a slot of a request is granted; if no request is to have it, stop.
  local function grant(index, request)
    local costs, line = request[2], lines[request[1]] or {}
    local free_at, limited = gate_of(queue, base, costs)
    local gate, at = free_at - ahead - payload.jitter, math.max(base, free_at)
    if granted >= free then
      stopped, short_of_permits = true, true
      return false
    elseif is_short(queue, costs) then
      return stop(gate, true, costs)
    elseif at >= retry_at and granted > retried then
      retry(at)
      return true
    end
    local from, whens, slot, early = look(line, costs, at, limited)
    local horizon, grace = from + early, limited and spare or patience
    local stands, had_turn = nil, false
    for number, lane in ipairs(line) do
      local turn = lane.served or is_reserved_by(lane, line)
      local short = is_short(lane, costs, lane.shares)
      if is_kept_from(lane, line, slot, costs) then
        -- So that it asks when that one has had its slot, or is late.
        local ask_at = math.max(lane.reserved.at, base + RECHECK)
        whens[number], short = math.max(whens[number], ask_at + horizon - base), true
      end
      if lane.number == line.stood and not short then
        -- As for a call of that lane alone: they take slots so long ahead.
        local latest = from + (limited and spare or ahead)
        had_turn = may_take(lane, whens[number], math.max(horizon, latest), turn, grace)
      end
      if short or not may_take(lane, whens[number], horizon, turn, grace) then
        if not stands or whens[number] > whens[stands] then
          stands = number
        end
      end
      lane.short = short
    end
    if stands and reserve(line, whens, had_turn, stands, costs) and slot <= horizon then
      stands = nil
    end
    if stands then
      local lane = line[stands]
      line.stands = lane
      return postpone(lane, whens[stands], horizon, from, grace, limited, lane.short)
    end
    if is_short(queue, costs, queue.shares) then
      return stop(gate, true, costs)
    elseif not may_take(queue, gate, now, granted > 0, patience) then
      return stop(gate, granted > 0, costs)
    end
    local until_ = consume(queue, at, costs, slot)
    take_share(queue, costs)
    for _, lane in ipairs(line) do
      until_ = math.min(until_, consume(lane, slot, costs, slot))
      take_share(lane, costs)
      lane.served = true
    end
    end_reservation(line)
    granted, request[3] = granted + 1, request[3] - 1
    for _, figure in ipairs({index, slot, math.max(slot, math.floor(until_))}) do
      grants[#grants + 1] = figure
    end
    return true
  end

  -- Each slot goes to the first request whose lanes are due by then.
  local from, index, last = 1, 1, nil
  while index <= #requests and not stopped do
    local request = requests[index]
    if request[3] == 0 then
      from = index == from and from + 1 or from
      index = index + 1
    elseif is_later(lines[request[1]] or {}) or is_closed_for(request[2]) then
      index = index + 1
    else
      local before = granted
      if not grant(index, request) then
        index = index + 1
      elseif granted > before then
        last = request[2]
      else
        index = from
      end
    end
  end
  if granted > 0 and #closed == 0 and not stopped and is_used_up(queue) then
    -- It has had its share: it comes again at its turn.
    local free_at = gate_of(queue, now, last)
    stop(free_at - ahead - payload.jitter, true, last)
  end

  local postponements, positions = {}, {}
  for number, line in ipairs(lines) do
    local stands = line.stands
    if not (stands and stands.later) then  -- or it is behind somebody else who waits
      for _, lane in ipairs(line) do
        stands = lane.later and lane or stands
      end
    end
    if stands and stands.later then
      local its = positions[stands]
      if not its then
        its = next_position(stands, stands.gate, stands.at, stands.step, stands.served)
        positions[stands] = its
      end
      local ask_at = its - (stands.at - base)
      if is_reserved_by(stands, line) and stands.reserved.at - spare > now then
        ask_at = stands.reserved.at - spare
      end
      ask_at = math.max(now + 1, ask_at)
      for _, figure in ipairs({number, stands.number, its, ask_at}) do
        postponements[#postponements + 1] = math.min(LATEST, figure)
      end
    end
  end
  hold_permits(granted, short_of_permits)
  local short = short_of_permits and 1 or 0
  return finish(math.min(fair, 1e6), math.min(LATEST, position), short, grants, postponements)
end

if verb == 'renew' or verb == 'adjust' or verb == 'return' then
  local _, hold_permits = count_permits()
  hold_permits(0, false)
  local changes = is_new() and payload.changes or {}
  table.sort(changes, function(one, other) return one[2] > other[2] end)
  for _, change in ipairs(changes) do
    local numbers, at, costs = unpack(change)
    adjust(queue, at, costs)
    for _, number in ipairs(numbers) do
      adjust(lanes[number], at, costs)
    end
  end
elseif verb == 'hold' or verb == 'pushback' then
  local state, backed_off = lanes[1] or queue, 0
  if payload.hold then
    state.held_until = math.min(LATEST, math.max(state.held_until, now + payload.hold))
  end
  if verb == 'pushback' and is_new() then
    local _, _, running = count_permits()
    for _, limit in ipairs(state.limits) do
      if limit.kind == 'g' and limit:push_back(payload.released_at, running) then
        backed_off = 1
      end
    end
  end
  return finish(backed_off)
elseif verb == 'pause' then
  local until_ = payload.hold and math.min(LATEST, now + payload.hold) or NEVER
  queue.paused_until = math.max(queue.paused_until, until_)
elseif verb == 'resume' then
  queue.paused_until, queue.last_position = math.min(queue.paused_until, now), ALWAYS
elseif verb == 'leave' then
  redis.call('ZREM', KEYS[2], sender)
  redis.call('HDEL', KEYS[3], sender)
  redis.call('DEL', KEYS[payload.number[1]])
end
return finish(revision)
