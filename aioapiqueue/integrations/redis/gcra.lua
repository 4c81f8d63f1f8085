-- The limits of one quota, for all who share it: the arithmetic of _algorithms.py and adaptive.py on
-- the server's clock. Everything that is asked or said is one call of this script, so that a slot
-- is charged to the queue and to its lane at once, or to neither. It goes on from gcra_figures.lua
-- and gcra_limits.lua: a server has no modules, so schedule.py joins them.
--
-- Times are whole microseconds, which a double holds exactly until the year 2255.
--
-- KEYS[1]  the queue: its limits' state, what all have been told, the clock
-- KEYS[2]  who has asked lately: process -> when
-- KEYS[3]  who holds places under `concurrency`: process -> "places:until:wanting until"
-- KEYS[4+] lanes, the logs of windows, and what a process has said last, as the payload says
-- ARGV[1]  what is asked or said, ARGV[2] the instant (tests give it; '': the server's clock)
-- ARGV[3]  the payload, JSON: see _codec.py

local KEEP = 2e6          -- an idle key lives so much longer than it can be told from a new one
local PAUSED = 86400e6    -- what is paused without end is remembered for a day without a caller
local TOLD = 3600e6       -- so is for an hour what `set_rate` has said
local RECENT = 1.5e6      -- who has asked since is taken to be waiting: everybody asks every second

-- A schedule: {key, fields, limits, held, last, turn}.

local KINDS = {r = Pace, w = Window, g = Governor}

local function load(spec)
  local schedule = {key = KEYS[spec.key], limits = spec.limits, mine = spec.round_position or 0}
  local fields, read = hash(schedule.key)
  local counts = {}
  for _, limit in ipairs(spec.limits) do
    -- By kind and number: of other limits, each takes over from the one of its kind in its place.
    counts[limit.kind] = (counts[limit.kind] or 0) + 1
    limit.name = limit.kind .. counts[limit.kind] .. ':'
    setmetatable(limit, {__index = KINDS[limit.kind]})
    limit:load(read, limit.name, schedule.key, fields)
  end
  schedule.fields = fields
  schedule.held = read('held', ALWAYS)    -- by the other side's push-back
  schedule.paused = fields.paused == 'inf' and NEVER or read('paused', ALWAYS)
  schedule.last = read('last', ALWAYS, nil, now + YEAR)  -- the latest slot so far
  schedule.turn = read('turn', ALWAYS)    -- the latest turn to ask that was given out
  schedule.fixed = read('fixed', ALWAYS)  -- turns up to this one are known to be early
  schedule.interval, schedule.bound = 0, #spec.limits > 0
  for _, limit in ipairs(spec.limits) do
    schedule.interval = math.max(schedule.interval, limit.interval or 0)
  end
  return schedule
end

local function until_(schedule)
  return math.max(schedule.held, schedule.paused)
end

local function fresh_at(schedule)
  local fresh = math.max(until_(schedule), schedule.turn, now)
  for _, limit in ipairs(schedule.limits) do
    fresh = math.max(fresh, limit:fresh_at())
  end
  return fresh
end

local function expire(key, at)
  redis.call('PEXPIRE', key, string.format('%.0f', math.ceil((math.min(at, LATEST) - now) / 1000)))
end

-- Write a schedule back; return when it may be forgotten.
local function save(schedule, extra)
  local flat, absent = {}, {}
  local function set(name, value, most)
    if value == ALWAYS or value == NEVER or value == '' then
      if schedule.fields[name] then
        absent[#absent + 1] = name
      end
    else
      flat[#flat + 1] = name
      if type(value) == 'number' then  -- no more than is read again
        value = string.format('%.17g', math.max(-LATEST, math.min(most or LATEST, value)))
      end
      flat[#flat + 1] = value
    end
  end
  for _, limit in ipairs(schedule.limits) do
    limit:save(set, limit.name)
  end
  set('held', schedule.held)
  if schedule.paused == NEVER then
    set('paused', 'inf')
  else
    set('paused', schedule.paused)
  end
  set('last', schedule.last)
  set('turn', schedule.turn)
  set('fixed', schedule.fixed)
  for name, value in pairs(extra or {}) do
    set(name, value)
  end
  if #flat > 0 then
    redis.call('HSET', schedule.key, unpack(flat))
  end
  if #absent > 0 then
    redis.call('HDEL', schedule.key, unpack(absent))
  end
  local fresh = fresh_at(schedule)
  fresh = fresh == NEVER and now + PAUSED or fresh + KEEP
  expire(schedule.key, fresh)
  for _, limit in ipairs(schedule.limits) do
    if limit.kind == 'w' then
      expire(limit.log, fresh)
    end
  end
  return fresh
end

local function touch(schedule, at)
  for _, limit in ipairs(schedule.limits) do
    limit:touch(at)
  end
end

local function due(schedule, at, cost)
  local when = until_(schedule)
  for _, limit in ipairs(schedule.limits) do
    when = math.max(when, limit:due(at, cost))
  end
  return when
end

-- Charge what is due `at` and is to start at `slot`; return until when it may, so that in all it is
-- no later than catch_up.
local function take(schedule, at, cost, slot)
  local latest = slot + catch_up
  for _, limit in ipairs(schedule.limits) do
    latest = math.min(latest, limit:take(at, cost, until_(schedule), slot))
  end
  schedule.last = math.max(schedule.last, at)
  return latest
end

local function adjust(schedule, at, cost)
  for _, limit in ipairs(schedule.limits) do
    limit:adjust(at, cost)
  end
  if verb == 'return' and at == schedule.last then
    schedule.last = at - 1
    local limit = schedule.limits[1]
    if #schedule.limits == 1 and limit.kind == 'r' and limit.burst == 1 then
      schedule.last = math.min(schedule.last, limit.charged)  -- that before it
    end
  end
end

local processes = 1  -- how many are taken to be waiting

-- What one of them may take at once.
local function share(schedule)
  local room = NEVER
  for _, limit in ipairs(schedule.limits) do
    room = math.min(room, limit:room())
  end
  return math.max(1, math.floor(room / processes))
end

-- Who finds no slot gets a turn, the last in line: in the queue's line an instant to ask at, in a
-- lane's the slot to be had. `at` is the one that this request is about, `gate` the first that is
-- free. Who has been `served` by this request begins anew, who `came` at its turn goes first.

local function came(schedule, at)
  return schedule.mine > 0 and schedule.mine <= at
end

-- A slot that has been free for `grace` goes to whoever asks: somebody did not come.
local function may_take(schedule, gate, at, served, grace)
  local first = served or came(schedule, at) or schedule.turn <= at or gate < at - grace
    or processes == 1
  return gate <= at and first
end

local function next_turn(schedule, gate, at, step, served)
  if gate == NEVER then
    return at + 1e6
  end
  local last = gate + (processes - 1) * step  -- of as many as there are
  if served or not came(schedule, at) then
    if not served and schedule.mine > at then
      return math.min(schedule.mine, last)
    end
    schedule.turn = math.min(math.max(gate, schedule.turn + step), last)
    if served and came(schedule, at) then  -- by what it has had, however late it came
      local round = processes * (schedule.fair - schedule.left) * schedule.interval
      return math.max(gate, math.min(schedule.turn, schedule.mine + round))
    end
    return schedule.turn
  elseif schedule.mine > schedule.fixed then  -- a slot was lost, the line is early: mended once
    schedule.fixed = math.max(schedule.turn, schedule.mine)
    schedule.turn = math.min(schedule.fixed + gate - schedule.mine, last)
  end
  return gate
end

-- The clock never goes back: of a server's that does, the difference is added from then on.
local queue_fields, read_queue = hash(KEYS[1])
local skew, seen = read_queue('skew', 0, 0, LATEST / 2), read_queue('seen', ALWAYS, 0, LATEST / 2)
if ARGV[2] == '' then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1e6 + tonumber(time[2])
else
  now = tonumber(ARGV[2])
end
local behind = math.max(0, seen - (now + skew))
skew = skew + behind
now = now + skew
local epoch = read_queue('epoch', now, 1, LATEST / 2)
local rev = read_queue('rev', 0, 0, LATEST / 2)
if rev % 1 > 0 or rev > 0 and not queue_fields.conf then
  -- What both sides cannot read alike, they would tell each other without end.
  refuse(KEYS[1], queue_fields.conf and 'rev' or 'no conf, but rev', queue_fields.rev)
end

local restoring = verb == 'restorelimits'
if verb == 'setlimits' or restoring then
  if payload.revision < rev then
    return {'limits', rev, queue_fields.conf}
  end
  -- Who tells again what the server has forgotten does not make it newer: somebody may know later
  -- limits. New ones have an instant, so that none is ever given out twice, be it by another server.
  rev = restoring and payload.revision or math.max(rev + 1, payload.revision + 1, now)
  queue_fields.conf = payload.limits
elseif payload.revision < rev then
  return {'limits', rev, queue_fields.conf}
elseif payload.revision > rev then
  return {'forgotten'}  -- the server has forgotten what this process knows
end

local queue = load(payload.queue)
local lanes = {}
for index, spec in ipairs(payload.lanes) do
  lanes[index] = load(spec)
end
local lane = lanes[1]  -- of whoever speaks of one

-- When the next slot would be due.
local function next_at()
  return math.max(due(queue, math.max(now, queue.last), 1), queue.last)
end

local function text(number)
  return string.format('%.17g', number)
end

-- How things stand: until when a schedule is held, when its limits have the next slot, and what
-- push-back has left.
local function state(schedule)
  local ready, rate = ALWAYS, NEVER
  for _, one in ipairs(schedule.limits) do
    ready = math.max(ready, one:due(math.max(now, schedule.last), 1))
    if one.kind == 'w' then  -- it has forgotten what ends before the latest slot
      ready = math.max(ready, schedule.last)
    end
    if one.kind == 'g' and lowered(one.pace) then
      rate = one.pace.value
    end
  end
  if ready == NEVER then
    ready = ALWAYS  -- unknown
  end
  return {text(until_(schedule)), text(ready), text(rate)}
end

-- Write everything; answer, after how things stand.
local function finish(...)
  local fresh, states = now, state(queue)
  for _, one in ipairs(lanes) do
    for _, value in ipairs(state(one)) do
      states[#states + 1] = value
    end
    fresh = math.max(fresh, save(one))
  end
  local extra = {epoch = epoch, seen = now, skew = skew}
  if rev > 0 then
    extra.rev, extra.conf = rev, queue_fields.conf
    fresh = math.max(fresh, now + TOLD)
  end
  expire(KEYS[1], math.max(fresh, save(queue, extra)))
  return {'ok', now, epoch, states, ...}
end

-- Places: who holds how many, and how many are free for this process. Each says how many it has
-- each time, so that a lost answer leaves nothing behind; who says nothing for `lease` has none.
-- Return how many are free, how to say what was taken, and how many are held in all.
local function places()
  local limit = payload.concurrency
  for _, one in ipairs(queue.limits) do
    if one.kind == 'g' and lowered(one.places) then
      limit = math.floor(one.places.value)
    end
  end
  if not limit then
    return NEVER, function() end, payload.permits
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
    elseif process ~= payload.sender then
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
  local free = limit - others - payload.permits
  local mine = math.min(free, math.max(fair - payload.permits, free - reserved))
  return math.max(0, mine), function(granted, wanting_more)
    local holds = payload.permits + granted
    local wants = wanting_more and now + 300000 or 0
    if holds > 0 or wants > 0 then
      local text = string.format('%.0f:%.0f:%.0f', holds, now + lease, wants)
      redis.call('HSET', KEYS[3], payload.sender, text)
      expire(KEYS[3], latest + KEEP)
    else
      redis.call('HDEL', KEYS[3], payload.sender)
    end
  end, others + payload.permits
end

-- What counts each time that it is heard has a number, and is heeded once: its answer may be lost,
-- and who had none says it again. (So may a client by itself.) Return whether it is new.
local function is_new()
  if not payload.number then
    return true
  end
  local key, one, kept = KEYS[payload.number[1]], payload.number[2], payload.number[3]
  local _, read = hash(key)
  if one <= read('said', 0, 0) then
    return false
  end
  redis.call('HSET', key, 'said', one)
  expire(key, now + kept)
  return true
end

if verb == 'ask' then
  local requests, base = payload.requests, now + payload.jitter
  redis.call('ZADD', KEYS[2], string.format('%.0f', now), payload.sender)
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('(%.0f', now - RECENT))
  expire(KEYS[2], now + RECENT + KEEP)
  processes = redis.call('ZCARD', KEYS[2])
  touch(queue, now - payload.queue.waited)
  for index, one in ipairs(lanes) do
    touch(one, now - payload.lanes[index].waited)
    one.fair = share(one)
    one.left, one.step = one.fair, 0
    if one.interval > 0 then  -- under a limited queue, it has only what falls within that
      local most = #queue.limits > 0 and 1 + math.floor(spare / one.interval) or one.fair
      one.step = math.min(one.fair, most) * one.interval
    end
  end
  local free, hold_places = places()
  local fair = share(queue)
  local most = math.min(fair, payload.most)
  queue.fair, queue.left = most, most
  local step = queue.interval > 0 and fair * queue.interval or 0
  local granted, slots, stop, short_of_permits = 0, {}, nil, false
  -- A lane that is due later than the queue must not hold up the queue's slot until then; one that
  -- is due soon makes it a late one.
  local early, patience = queue.bound and spare or ahead, math.max(ahead / 2, 20000)

  -- Return whether a slot of a request is granted; if nobody else is to have it either, `stop` says
  -- when to ask again.
  local function grant(index, request)
    local cost, own = request[2][1], lanes[request[1][1]]
    local free_at = math.max(due(queue, math.max(base, queue.last), cost), queue.last)
    local gate = free_at - ahead - payload.jitter
    local at = math.max(base, free_at)
    local slot = at
    if granted >= free then
      stop, short_of_permits = 0, true
      return false
    elseif queue.left < math.min(cost, 1) then
      stop = next_turn(queue, gate, now, step, true)
      return false
    elseif own then
      local from = queue.bound and at or base
      local when = math.max(due(own, math.max(from, own.last), cost), own.last)
      own.gate, own.at, own.ask = when, from + early, early + from - base
      local grace = queue.bound and spare or patience
      if own.left < math.min(cost, own.fair)
          or not may_take(own, when, own.at, own.served, grace) then
        own.later = true
        return false
      end
      slot = math.max(at, when)
    end
    if queue.left < math.min(cost, most) then
      stop = next_turn(queue, gate, now, step, true)
      return false
    elseif not may_take(queue, gate, now, granted > 0, patience) then
      stop = next_turn(queue, gate, now, step, granted > 0)
      return false
    end
    local latest = take(queue, at, cost, slot)
    if own then
      latest = math.min(latest, take(own, slot, cost, slot))
      own.left, own.served = own.left - cost, true
    end
    queue.left, granted = queue.left - cost, granted + 1
    slots[#slots + 1] = index
    slots[#slots + 1] = slot
    slots[#slots + 1] = math.max(slot, math.floor(latest))
    return true
  end

  -- Each slot goes to the first request whose lane is due by then.
  local from = 1
  repeat
    local found = false
    for _, own in ipairs(lanes) do
      own.later = false
    end
    for index = from, #requests do
      local request = requests[index]
      local own = lanes[request[1][1]]
      if request[3] == 0 then
        from = index == from and from + 1 or from
      elseif not (own and own.later) and grant(index, request) then
        request[3], found = request[3] - 1, true
        break
      elseif stop then
        break
      end
    end
  until not found or stop
  if granted > 0 and queue.left < 1 and not stop then  -- its share: it is to come again at its turn
    stop = next_turn(queue, next_at() - ahead - payload.jitter, now, step, true)
  end

  local turns = {}
  for number, own in ipairs(lanes) do
    if own.later then
      local turn = next_turn(own, own.gate, own.at, own.step, own.served)
      turns[#turns + 1] = number
      turns[#turns + 1] = math.min(LATEST, turn)
      turns[#turns + 1] = math.min(LATEST, math.max(now + 1, turn - own.ask))
    end
  end
  hold_places(granted, short_of_permits)
  local position = math.min(LATEST, stop or 0)
  return finish(math.min(fair, 1e6), position, short_of_permits and 1 or 0, slots, turns)
end

if verb == 'renew' or verb == 'adjust' or verb == 'return' then
  local _, hold_places = places()
  hold_places(0, false)
  local items = is_new() and payload.changes or {}
  table.sort(items, function(one, other) return one[2] > other[2] end)
  for _, item in ipairs(items) do
    local numbers, at, costs = unpack(item)
    adjust(queue, at, costs[1])
    for _, number in ipairs(numbers) do
      adjust(lanes[number], at, costs[1])
    end
  end
elseif verb == 'hold' or verb == 'pushback' then
  local held = lane or queue
  if payload.hold then
    held.held = math.min(LATEST, math.max(held.held, now + payload.hold))
  end
  local slowed = 0
  if verb == 'pushback' and is_new() then
    local _, _, running = places()
    for _, limit in ipairs(held.limits) do
      if limit.kind == 'g' and limit:push_back(payload.released_at, running) then
        slowed = 1
      end
    end
  end
  return finish(slowed)
elseif verb == 'pause' then
  local end_ = payload.hold and math.min(LATEST, now + payload.hold) or NEVER
  queue.paused = math.max(queue.paused, end_)
elseif verb == 'resume' then
  queue.paused, queue.turn = math.min(queue.paused, now), ALWAYS
elseif verb == 'leave' then
  redis.call('ZREM', KEYS[2], payload.sender)
  redis.call('HDEL', KEYS[3], payload.sender)
  redis.call('DEL', KEYS[payload.number[1]])
end
return finish(rev)
