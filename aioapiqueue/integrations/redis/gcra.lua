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
local PATIENCE = 20e3     -- a request that is on its way for so long is not late yet

local sender, permits = payload.sender, payload.permits

-- The state of the queue's limits, or of a lane's.

local KINDS = {r = TokenBucket, w = SlidingWindow, g = AdaptiveRate}
local KEPT = {
  {'held', 'held_until', ALWAYS},         -- by the other side's push-back
  {'last', 'last', ALWAYS, nil, now + YEAR},
  {'turn', 'last_position', ALWAYS},      -- the latest round position that was given out
  {'fixed', 'mended_until', ALWAYS},      -- positions up to this one are known to be early
}

local function load(spec)
  local state = {key = KEYS[spec.key], limits = spec.limits, position = spec.round_position or 0}
  local fields, read = hash(state.key)
  local counts = {}
  state.fields, state.interval = fields, 0
  for _, limit in ipairs(spec.limits) do
    -- By kind and number: of other limits, each takes over from the one of its kind in its place.
    counts[limit.kind] = (counts[limit.kind] or 0) + 1
    limit.name = limit.kind .. counts[limit.kind] .. ':'
    setmetatable(limit, {__index = KINDS[limit.kind]})
    limit:load(read, limit.name, state.key, fields)
    state.interval = math.max(state.interval, limit.interval or 0)
  end
  load_figures(state, KEPT, read, '')
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

local function next_at(state, at, cost)
  return latest_of(state, blocked_until(state), 'next_at', at, cost)
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
  for name, value in pairs(extra or {}) do
    set(name, value)
  end
  if #flat > 0 then
    redis.call('HSET', state.key, unpack(flat))
  end
  if #absent > 0 then
    redis.call('HDEL', state.key, unpack(absent))
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
local function consume(state, at, cost, slot)
  local latest = slot + catch_up
  for _, limit in ipairs(state.limits) do
    latest = math.min(latest, limit:consume(at, cost, blocked_until(state), slot))
  end
  state.last = math.max(state.last, at)
  return latest
end

local function adjust(state, at, cost)
  for _, limit in ipairs(state.limits) do
    limit:adjust(at, cost)
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

-- Return what one of them may have at once.
local function share(state)
  local room = NEVER
  for _, limit in ipairs(state.limits) do
    room = math.min(room, limit:room())
  end
  return math.max(1, math.floor(room / processes))
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
      local round = processes * (state.fair - state.left) * state.interval
      return math.max(gate, math.min(state.last_position, state.position + round))
    end
    return state.last_position
  elseif state.position > state.mended_until then  -- a slot was lost, the line is early: mend it
    state.mended_until = math.max(state.last_position, state.position)
    state.last_position = math.min(state.mended_until + gate - state.position, last)
  end
  return gate
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
local lanes = {}
for index, spec in ipairs(payload.lanes) do
  lanes[index] = load(spec)
end

-- Add how things stand: until when all is held, when the limits have room for the next call
-- ('-inf': unknown), and what push-back has left.
local function add_status(statuses, state)
  local ready, rate = ALWAYS, NEVER
  for _, limit in ipairs(state.limits) do
    ready = math.max(ready, limit:next_at(math.max(now, state.last), 1))
    if limit.kind == 'w' then  -- it has forgotten what ends before the latest slot
      ready = math.max(ready, state.last)
    end
    if limit.kind == 'g' and lowered(limit.rate) then
      rate = limit.rate.value
    end
  end
  for _, figure in ipairs({blocked_until(state), ready == NEVER and ALWAYS or ready, rate}) do
    statuses[#statuses + 1] = string.format('%.17g', figure)
  end
end

-- Write everything; reply, with how things stand first.
local function finish(...)
  local idle_at, statuses = now, {}
  add_status(statuses, queue)
  for _, lane in ipairs(lanes) do
    add_status(statuses, lane)
    idle_at = math.max(idle_at, save(lane))
  end
  local extra = {epoch = epoch, seen = now, skew = skew}
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
  for index, lane in ipairs(lanes) do
    on_idle(lane, now - payload.lanes[index].waited)
    lane.fair = share(lane)
    lane.left, lane.step = lane.fair, 0
    if lane.interval > 0 then  -- under a limited queue, it has only what falls within that
      local most = #queue.limits > 0 and 1 + math.floor(spare / lane.interval) or lane.fair
      lane.step = math.min(lane.fair, most) * lane.interval
    end
  end
  local free, hold_permits = count_permits()
  local fair = share(queue)
  local most = math.min(fair, payload.most)
  queue.fair, queue.left = most, most
  local step = queue.interval > 0 and fair * queue.interval or 0
  local granted, grants, stopped, position, short_of_permits = 0, {}, false, 0, false
  -- A lane that is due later than the queue must not hold up the queue's slot until then; one that
  -- is due soon makes it a late one.
  local limited = #queue.limits > 0
  local early, patience = limited and spare or ahead, math.max(ahead / 2, PATIENCE)

  local function stop(gate, served)
    stopped, position = true, next_position(queue, gate, now, step, served)
    return false
  end

  -- Return whether a slot of a request is granted; if no request is to have it, stop.
  local function grant(index, request)
    local cost, lane = request[2][1], lanes[request[1][1]]
    local free_at = math.max(next_at(queue, math.max(base, queue.last), cost), queue.last)
    local gate, at = free_at - ahead - payload.jitter, math.max(base, free_at)
    local slot = at
    if granted >= free then
      stopped, short_of_permits = true, true
      return false
    elseif queue.left < math.min(cost, 1) then
      return stop(gate, true)
    elseif lane then
      local from = limited and at or base
      local when = math.max(next_at(lane, math.max(from, lane.last), cost), lane.last)
      lane.gate, lane.at, lane.ask_after = when, from + early, early + from - base
      local grace = limited and spare or patience
      if lane.left < math.min(cost, lane.fair)
          or not may_take(lane, when, lane.at, lane.served, grace) then
        lane.later = true
        return false
      end
      slot = math.max(at, when)
    end
    if queue.left < math.min(cost, most) then
      return stop(gate, true)
    elseif not may_take(queue, gate, now, granted > 0, patience) then
      return stop(gate, granted > 0)
    end
    local latest = consume(queue, at, cost, slot)
    if lane then
      latest = math.min(latest, consume(lane, slot, cost, slot))
      lane.left, lane.served = lane.left - cost, true
    end
    queue.left, granted = queue.left - cost, granted + 1
    for _, figure in ipairs({index, slot, math.max(slot, math.floor(latest))}) do
      grants[#grants + 1] = figure
    end
    return true
  end

  -- Each slot goes to the first request whose lane is due by then.
  local from = 1
  repeat
    local found = false
    for _, lane in ipairs(lanes) do
      lane.later = false
    end
    for index = from, #requests do
      local request = requests[index]
      local lane = lanes[request[1][1]]
      if request[3] == 0 then
        from = index == from and from + 1 or from
      elseif not (lane and lane.later) and grant(index, request) then
        request[3], found = request[3] - 1, true
        break
      elseif stopped then
        break
      end
    end
  until not found or stopped
  if granted > 0 and queue.left < 1 and not stopped then  -- its share: it comes again at its turn
    local free_at = math.max(next_at(queue, math.max(now, queue.last), 1), queue.last)
    stop(free_at - ahead - payload.jitter, true)
  end

  local postponements = {}
  for number, lane in ipairs(lanes) do
    if lane.later then
      local its = next_position(lane, lane.gate, lane.at, lane.step, lane.served)
      local ask_at = math.max(now + 1, its - lane.ask_after)
      for _, figure in ipairs({number, math.min(LATEST, its), math.min(LATEST, ask_at)}) do
        postponements[#postponements + 1] = figure
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
    adjust(queue, at, costs[1])
    for _, number in ipairs(numbers) do
      adjust(lanes[number], at, costs[1])
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
