-- The limits of one quota, for all who share it: the arithmetic of _schedule.py and adaptive.py on
-- the server's clock. Everything that is asked or said is one call of this script, so that a slot
-- is charged to the queue and to its lane at once, or to neither.
--
-- Times are whole microseconds, which a double holds exactly until the year 2255.
--
-- KEYS[1]  the queue: its limits' state, what all have been told, the clock
-- KEYS[2]  who has asked lately: process -> when
-- KEYS[3]  who holds places under `concurrency`: process -> "places:until:wanting until"
-- KEYS[4+] lanes, and the logs of windows, as the payload says
-- ARGV[1]  what is asked or said, ARGV[2] the instant (tests give it; '': the server's clock)
-- ARGV[3]  the payload, JSON: see `_wire` in redis.py

local NEVER, ALWAYS = math.huge, -math.huge
local KEEP = 2e6          -- an idle key lives so much longer than it can be told from a new one
local PAUSED = 86400e6    -- what is paused without end is remembered for a day without a caller
local TOLD = 3600e6       -- so is for an hour what `set_rate` has said
local RECENT = 1.5e6      -- who has asked since is taken to be waiting: everybody asks every second
local MEMORY = 3600e6     -- as adaptive.py
local ENOUGH, PROBING = 10, 3

local verb, payload = ARGV[1], cjson.decode(ARGV[3])
local catch_up, ahead = payload.catch_up, payload.ahead
local now

local function number(text, default)
  return text and tonumber(text) or default
end

local function up(time)  -- to a whole microsecond; what is a nanosecond above one is that one
  return math.ceil(time - 0.001)
end

-- A schedule: {key, fields, limits, held, last, turn}. Its limits are rates (pace), windows and,
-- where it is adaptive, a governor, which is a pace too.

local Pace = {}

function Pace.tat(pace)
  return pace.anchor + pace.used * pace.interval
end

function Pace.restart(pace, anchor, used)
  pace.anchor, pace.used = anchor, used
end

function Pace.touch(pace, at)
  if pace.last < at - catch_up and Pace.tat(pace) < at then
    Pace.restart(pace, at, 0)
  end
end

function Pace.due(pace, _, cost)
  if pace.anchor == ALWAYS then
    return ALWAYS
  end
  return up(pace.anchor + (pace.used + cost - pace.burst) * pace.interval)
end

function Pace.take(pace, at, cost, held, _)
  local floor = math.max(at - math.max(catch_up, 1), held)  -- what was rounded up is not late
  if cost > pace.burst then
    floor = floor - (cost - pace.burst) * pace.interval
  end
  if Pace.tat(pace) < floor then
    Pace.restart(pace, floor, 0)
  end
  if pace.burst > 1 then
    local slack, peaks = at - Pace.tat(pace), pace.peaks
    while #peaks > 0 and peaks[#peaks][2] <= slack do
      table.remove(peaks)
    end
    if #peaks == 0 or peaks[#peaks][1] ~= at then
      peaks[#peaks + 1] = {at, slack}
    end
    if #peaks > 32 then  -- too little may be given back for those, never too much
      peaks[2][2] = peaks[1][2]
      table.remove(peaks, 1)
    end
  end
  pace.used = pace.used + cost
  pace.last = math.max(pace.last, at)
end

function Pace.adjust(pace, at, cost)
  if cost < 0 and at ~= pace.last then
    if pace.burst == 1 then
      return
    end
    local later = nil
    for _, peak in ipairs(pace.peaks) do
      if peak[1] > at then
        later = math.max(later or ALWAYS, peak[2])
      end
    end
    later = later or 0
    cost = math.min(0, math.max(cost, (later - catch_up) / pace.interval))
    for _, peak in ipairs(pace.peaks) do
      if peak[1] > at then
        peak[2] = peak[2] - cost * pace.interval
      end
    end
  end
  pace.used = math.max(0, pace.used + cost)
  if verb == 'return' and pace.burst == 1 then  -- so that the one before it can be returned too
    pace.last = math.min(pace.last, up(Pace.tat(pace) - pace.interval))
  end
end

function Pace.fresh_at(pace)
  return math.max(Pace.tat(pace), pace.last + catch_up)
end

-- How many could start within `ahead` if nobody else came.
function Pace.room(pace)
  if pace.interval == 0 then
    return NEVER
  end
  local since = math.max(Pace.tat(pace), now - catch_up)
  return math.max(ahead / pace.interval, (now + ahead - since) / pace.interval + pace.burst)
end

function Pace.load(pace, fields, at)
  pace.anchor = number(fields[at .. 'a'], ALWAYS)
  pace.used = number(fields[at .. 'u'], 0)
  pace.last = number(fields[at .. 'l'], ALWAYS)
  pace.peaks = {}
  for start, slack in string.gmatch(fields[at .. 'p'] or '', '(%S+):(%S+)') do
    table.insert(pace.peaks, {tonumber(start), tonumber(slack)})
  end
  local before = number(fields[at .. 'i'], pace.interval)
  if before ~= pace.interval or number(fields[at .. 'b'], pace.burst) ~= pace.burst then  -- other limits: what is owed is carried over, in calls
    if before > 0 then
      local tat, from = pace.anchor + pace.used * before, math.max(now, pace.last)
      Pace.restart(pace, from, math.max(0, (tat - from) / before))
    end
    pace.peaks = {}
    Pace.touch(pace, now)
  end
end

function Pace.save(pace, set, at)
  set(at .. 'i', pace.interval)
  set(at .. 'b', pace.burst)
  set(at .. 'a', pace.anchor)
  set(at .. 'u', pace.used)
  set(at .. 'l', pace.last)
  local peaks = {}
  for index, peak in ipairs(pace.peaks) do
    peaks[index] = string.format('%.17g:%.17g', peak[1], peak[2])
  end
  set(at .. 'p', table.concat(peaks, ' '))
end

-- Its log is a list of "instant:cost:end", oldest first. It ends `per` after the latest moment at
-- which the slot can have been used: so it holds for what really started, whoever started it.
local Window = {}

local function entry(text)
  local at, cost, ends = string.match(text or '', '(%S+):(%S+):(%S+)')
  return tonumber(at), tonumber(cost), tonumber(ends)
end

function Window.forget(window, at)
  while true do
    local start, cost, ends = entry(redis.call('LINDEX', window.log, 0))
    if not start then
      window.total = 0  -- drops what error fractions of cost have added up to
      return
    elseif ends > at then
      return
    end
    redis.call('LPOP', window.log)
    window.total = window.total - cost
  end
end

function Window.touch() end

function Window.due(window, at, cost)
  Window.forget(window, at)
  local excess, due, from = window.total + cost - window.calls, ALWAYS, 0
  while excess > 0 do
    local entries = redis.call('LRANGE', window.log, from, from + 63)
    for _, text in ipairs(entries) do
      if excess > 0 then
        local _, spent, ends = entry(text)
        excess, due = excess - spent, math.max(due, ends)
      end
    end
    if #entries < 64 then
      return excess > 1e-9 and NEVER or due  -- NEVER: the window is smaller than the cost
    end
    from = from + 64
  end
  return due
end

local function logged(at, cost, ends)
  return string.format('%.0f:%.17g:%.0f', at, cost, ends)
end

function Window.take(window, _, cost, _, at)
  local start, spent, ends = entry(redis.call('LINDEX', window.log, -1))
  local used = at + window.per + (payload.late or 0)
  if start == at then
    redis.call('LSET', window.log, -1, logged(at, spent + cost, math.max(ends, used)))
  else
    redis.call('RPUSH', window.log, logged(at, cost, used))
  end
  window.total = window.total + cost
end

function Window.adjust(window, at, cost)
  local index = -1
  while true do
    local start, spent, ends = entry(redis.call('LINDEX', window.log, index))
    if not start or start < at - catch_up then  -- a lane's may be as late as that
      return
    elseif start == at then
      redis.call('LSET', window.log, index, logged(at, spent + cost, ends))
      window.total = window.total + cost
      return
    end
    index = index - 1
  end
end

function Window.fresh_at(window)
  local _, _, ends = entry(redis.call('LINDEX', window.log, -1))
  return ends or ALWAYS
end

function Window.room(window)
  Window.forget(window, now)
  return window.calls - window.total
end

function Window.load(window, fields, at)
  window.log = KEYS[window.log]
  if fields[at .. 'n'] then
    window.total = tonumber(fields[at .. 'n'])
  else
    redis.call('DEL', window.log)
    window.total = 0
  end
end

function Window.save(window, set, at)
  set(at .. 'n', window.total)
end

local Governor = setmetatable({}, {__index = Pace})  -- as adaptive.py: see there

local function curve(ceiling, floor, fields, at)
  ceiling = ceiling < 0 and NEVER or ceiling  -- JSON knows no infinity
  local value = number(fields[at .. 'v'], ceiling)
  return {
    ceiling = ceiling,
    floor = floor,
    value = value < NEVER and math.min(ceiling, math.max(floor, value)) or ceiling,
    start = number(fields[at .. 's'], ceiling),
    remembered = number(fields[at .. 'r'], ceiling),
  }
end

local function lowered(curve)
  return curve.value < curve.ceiling
end

local function fall(curve, used, backoff)
  local allowed = curve.value == NEVER and used or curve.value
  curve.remembered = math.min(used, allowed)
  curve.start = math.min(backoff * allowed, math.sqrt(backoff) * curve.remembered)
  curve.start = math.max(curve.floor, curve.start)
  curve.value = curve.start
  curve.remembered = math.max(curve.remembered, 1.1 * curve.start)
end

local function regrow(curve, elapsed, recovery)
  if lowered(curve) then
    local x = elapsed / recovery - 1
    x = x < 0 and x or x / PROBING
    local value = curve.remembered + (curve.remembered - curve.start) * x ^ 3
    curve.value = math.min(curve.ceiling, math.max(curve.floor, value))
  end
end

function Governor.set_interval(governor)
  local interval = lowered(governor.pace) and 1e6 / governor.pace.value or 0
  if interval ~= governor.interval then
    Pace.restart(governor, Pace.tat(governor), 0)
    governor.interval = interval
  end
end

function Governor.forget(governor)
  governor.pace.value, governor.places.value = governor.pace.ceiling, governor.places.ceiling
  governor.elapsed, governor.active, governor.accepted = 0, 0, 0
  Governor.set_interval(governor)
end

function Governor.touch(governor, at)
  if at - math.max(governor.last, governor.slowed) > MEMORY then
    Governor.forget(governor)
  end
  Pace.touch(governor, at)
end

function Governor.take(governor, at, cost, held)
  local gap = governor.last > ALWAYS and (at - governor.last) / 1e6 or 0
  local busy = 2 * math.max(cost, 1) / governor.pace.value
  governor.active = governor.active + math.min(gap, math.max(1, busy))
  governor.accepted = governor.accepted + cost
  if lowered(governor.pace) or lowered(governor.places) then
    governor.elapsed = governor.elapsed + math.min(gap, busy)
    regrow(governor.pace, governor.elapsed, governor.recovery)
    regrow(governor.places, governor.elapsed, governor.recovery)
    Governor.set_interval(governor)
  end
  Pace.take(governor, at, cost, held)
end

function Governor.adjust(governor, at, cost)
  governor.accepted = math.max(0, governor.accepted + cost)
  Pace.adjust(governor, at, cost)
end

function Governor.push_back(governor, since, running)
  if since <= governor.slowed then
    return false
  end
  local used = governor.pace.value
  if used == NEVER then
    governor.active = math.max(governor.active, 1)
  end
  if governor.active > 0 and (governor.accepted >= ENOUGH or used == NEVER) then
    used = math.max(1, governor.accepted - 1) / governor.active
  end
  fall(governor.pace, used, governor.backoff)
  if governor.concurrency then
    fall(governor.places, math.max(1, running), governor.backoff)
  end
  governor.slowed = now
  governor.elapsed, governor.active, governor.accepted = 0, 0, 0
  Governor.set_interval(governor)
  Pace.restart(governor, now, 1)
  return true
end

function Governor.fresh_at(governor)
  if lowered(governor.pace) or lowered(governor.places) then
    return math.max(governor.last, governor.slowed) + MEMORY
  end
  return Pace.fresh_at(governor)
end

function Governor.load(governor, fields, at)
  governor.burst, governor.interval = 1, number(fields[at .. 'i'], 0)
  Pace.load(governor, fields, at)
  governor.slowed = number(fields[at .. 'slowed'], ALWAYS)
  governor.elapsed = number(fields[at .. 'elapsed'], 0)
  governor.active = number(fields[at .. 'active'], 0)
  governor.accepted = number(fields[at .. 'accepted'], 0)
  local places = payload.places
  governor.pace = curve(governor.ceiling, governor.floor, fields, at .. 'pace:')
  governor.places = curve(places, governor.concurrency or places, fields, at .. 'places:')
  Governor.set_interval(governor)
end

function Governor.save(governor, set, at)
  Pace.save(governor, set, at)
  for _, name in ipairs({'slowed', 'elapsed', 'active', 'accepted'}) do
    set(at .. name, governor[name])
  end
  for _, name in ipairs({'pace', 'places'}) do
    local curve = governor[name]
    if lowered(curve) then
      set(at .. name .. ':v', curve.value)
      set(at .. name .. ':s', curve.start)
      set(at .. name .. ':r', curve.remembered)
    else
      set(at .. name .. ':v', NEVER)
    end
  end
end

local function hash(key)
  local fields, flat = {}, redis.call('HGETALL', key)
  for index = 1, #flat, 2 do
    fields[flat[index]] = flat[index + 1]
  end
  return fields
end

local KINDS = {r = Pace, w = Window, g = Governor}

local function load(spec)
  local schedule = {key = KEYS[spec.key], limits = spec.limits, mine = spec.turn or 0}
  local fields = hash(schedule.key)
  local counts = {}
  for _, limit in ipairs(spec.limits) do
    -- By kind and number: of other limits, each takes over from the one of its kind in its place.
    counts[limit.kind] = (counts[limit.kind] or 0) + 1
    limit.name = limit.kind .. counts[limit.kind] .. ':'
    setmetatable(limit, {__index = KINDS[limit.kind]})
    limit:load(fields, limit.name)
  end
  schedule.fields = fields
  schedule.held = number(fields.held, ALWAYS)    -- by the other side's push-back
  schedule.paused = number(fields.paused, ALWAYS)
  schedule.last = number(fields.last, ALWAYS)    -- the latest slot so far
  schedule.turn = number(fields.turn, ALWAYS)    -- the latest turn to ask that was given out
  schedule.fixed = number(fields.fixed, ALWAYS)  -- turns up to this one are known to be early
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
  redis.call('PEXPIRE', key, string.format('%.0f', math.ceil((at - now) / 1000)))
end

-- Write a schedule back; return when it may be forgotten.
local function save(schedule, extra)
  local flat, absent = {}, {}
  local function set(name, value)
    if value == ALWAYS or value == NEVER or value == '' then
      if schedule.fields[name] then
        absent[#absent + 1] = name
      end
    else
      flat[#flat + 1] = name
      flat[#flat + 1] = type(value) == 'number' and string.format('%.17g', value) or value
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

-- Charge what is due `at` and starts at `slot`, at most catch_up later.
local function take(schedule, at, cost, slot)
  for _, limit in ipairs(schedule.limits) do
    limit:take(at, cost, until_(schedule), slot)
  end
  schedule.last = math.max(schedule.last, at)
end

local function adjust(schedule, at, cost)
  for _, limit in ipairs(schedule.limits) do
    limit:adjust(at, cost)
  end
  if verb == 'return' and at == schedule.last then
    schedule.last = at - 1
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
local queue_fields = hash(KEYS[1])
local skew, seen = number(queue_fields.skew, 0), number(queue_fields.seen, ALWAYS)
if ARGV[2] == '' then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1e6 + tonumber(time[2])
else
  now = tonumber(ARGV[2])
end
local behind = math.max(0, seen - (now + skew))
skew = skew + behind
now = now + skew
local epoch = number(queue_fields.epoch, now)
local rev = number(queue_fields.rev, 0)

if verb == 'set' then
  if payload.rev < rev then
    return {'conf', rev, queue_fields.conf}
  end
  rev = math.max(rev, payload.rev) + 1
  queue_fields.conf = payload.conf
elseif payload.rev < rev then
  return {'conf', rev, queue_fields.conf}
elseif payload.rev > rev then
  return {'tell'}  -- the server has forgotten what this process knows
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

-- Write everything; answer, after how things stand.
local function finish(...)
  local held, ready, rate = until_(queue), next_at(), -1
  for _, one in ipairs(queue.limits) do
    if one.kind == 'g' and lowered(one.pace) then
      rate = one.pace.value
    end
  end
  held = held == NEVER and -1 or math.max(0, held)
  ready = ready == NEVER and 0 or math.max(0, ready)
  local fresh = now
  for _, one in ipairs(lanes) do
    fresh = math.max(fresh, save(one))
  end
  local extra = {epoch = epoch, seen = now, skew = skew}
  if rev > 0 then
    extra.rev, extra.conf = rev, queue_fields.conf
    fresh = math.max(fresh, now + TOLD)
  end
  expire(KEYS[1], math.max(fresh, save(queue, extra)))
  return {'ok', now, epoch, held, ready, string.format('%.17g', rate), ...}
end

-- Places: who holds how many, and how many are free for this process. Each says how many it has
-- each time, so that a lost answer leaves nothing behind; who says nothing for `lease` has none.
-- Return how many are free, how to say what was taken, and how many are held in all.
local function places()
  local limit = payload.places
  for _, one in ipairs(queue.limits) do
    if one.kind == 'g' and lowered(one.places) then
      limit = math.floor(one.places.value)
    end
  end
  if limit < 0 then
    return NEVER, function() end, payload.running
  end
  local others, wanting, holders = 0, 1, {}
  for process, held in pairs(hash(KEYS[3])) do
    local count, lives, wants = string.match(held, '(%S+):(%S+):(%S+)')
    if tonumber(lives) <= now then
      redis.call('HDEL', KEYS[3], process)
    elseif process ~= payload.me then
      others = others + tonumber(count)
      if tonumber(wants) > now then
        wanting = wanting + 1
        holders[#holders + 1] = tonumber(count)
      end
    end
  end
  local fair, reserved = math.max(1, math.floor(limit / wanting)), 0
  for _, count in ipairs(holders) do
    reserved = reserved + math.max(0, fair - count)
  end
  local free = limit - others - payload.running
  local mine = math.min(free, math.max(fair - payload.running, free - reserved))
  return math.max(0, mine), function(granted, wanting_more)
    local holds = payload.running + granted
    local wants = wanting_more and now + 300000 or 0
    if holds > 0 or wants > 0 then
      local text = string.format('%.0f:%.0f:%.0f', holds, now + payload.lease, wants)
      redis.call('HSET', KEYS[3], payload.me, text)
      expire(KEYS[3], now + payload.lease + KEEP)
    else
      redis.call('HDEL', KEYS[3], payload.me)
    end
  end, others + payload.running
end

if verb == 'ask' then
  local wants, base = payload.wants, now + payload.lead
  redis.call('ZADD', KEYS[2], string.format('%.0f', now), payload.me)
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('(%.0f', now - RECENT))
  expire(KEYS[2], now + RECENT + KEEP)
  processes = redis.call('ZCARD', KEYS[2])
  touch(queue, now - payload.queue.waited)
  for index, one in ipairs(lanes) do
    touch(one, now - payload.lanes[index].waited)
    one.fair = share(one)
    one.left, one.step = one.fair, 0
    if one.interval > 0 then  -- under a limited queue, it has only what falls within catch_up
      local most = #queue.limits > 0 and 1 + math.floor(catch_up / one.interval) or one.fair
      one.step = math.min(one.fair, most) * one.interval
    end
  end
  local free, hold_places = places()
  local fair = share(queue)
  local most = math.min(fair, payload.most)
  queue.fair, queue.left = most, most
  local step = queue.interval > 0 and fair * queue.interval or 0
  local granted, slots, stop = 0, {}, nil
  -- A lane that is due later than the queue must not hold up the queue's slot until then; one that
  -- is due within catch_up makes it a late one.
  local early, patience = queue.bound and catch_up or ahead, math.max(ahead / 2, 20000)

  -- Return whether a slot of a want is granted; if nobody else is to have it either, `stop` says why.
  local function grant(index, want)
    local cost, own = want[2], lanes[want[1]]
    local free_at = math.max(due(queue, math.max(base, queue.last), cost), queue.last)
    local gate = free_at - ahead - payload.lead
    local at = math.max(base, free_at)
    local slot = at
    if granted >= free then
      stop = -1
      return false
    elseif queue.left < math.min(cost, 1) then
      stop = next_turn(queue, gate, now, step, true)
      return false
    elseif own then
      local from = queue.bound and at or base
      local when = math.max(due(own, math.max(from, own.last), cost), own.last)
      own.gate, own.at, own.ask = when, from + early, early + from - base
      local grace = queue.bound and catch_up or patience
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
    take(queue, at, cost, slot)
    if own then
      take(own, slot, cost, slot)
      own.left, own.served = own.left - cost, true
    end
    queue.left, granted = queue.left - cost, granted + 1
    slots[#slots + 1] = index
    slots[#slots + 1] = slot
    return true
  end

  -- Each slot goes to the first want whose lane is due by then.
  local from = 1
  repeat
    local found = false
    for _, own in ipairs(lanes) do
      own.later = false
    end
    for index = from, #wants do
      local want = wants[index]
      local own = lanes[want[1]]
      if want[3] == 0 then
        from = index == from and from + 1 or from
      elseif not (own and own.later) and grant(index, want) then
        want[3], found = want[3] - 1, true
        break
      elseif stop then
        break
      end
    end
  until not found or stop
  if granted > 0 and queue.left < 1 and not stop then  -- its share: it is to come again at its turn
    stop = next_turn(queue, next_at() - ahead - payload.lead, now, step, true)
  end

  local turns = {}
  for number, own in ipairs(lanes) do
    if own.later then
      local turn = next_turn(own, own.gate, own.at, own.step, own.served)
      turns[#turns + 1] = number
      turns[#turns + 1] = turn
      turns[#turns + 1] = math.max(now + 1, turn - own.ask)
    end
  end
  hold_places(granted, stop == -1)
  return finish(math.min(fair, 1e6), stop or 0, slots, turns)
end

if verb == 'renew' or verb == 'adjust' or verb == 'return' then
  local _, hold_places = places()
  hold_places(0, false)
  local items = payload.items or {}
  table.sort(items, function(one, other) return one[2] > other[2] end)
  for _, item in ipairs(items) do
    local number, at, cost = unpack(item)
    adjust(queue, at, cost)
    if lanes[number] then
      adjust(lanes[number], at, cost)
    end
  end
elseif verb == 'hold' or verb == 'push' then
  local held = lane or queue
  if payload.seconds >= 0 then
    held.held = math.max(held.held, now + payload.seconds)
  end
  local slowed = 0
  if verb == 'push' then
    local _, _, running = places()
    for _, limit in ipairs(held.limits) do
      if limit.kind == 'g' and limit:push_back(payload.since, running) then
        slowed = 1
      end
    end
  end
  return finish(slowed)
elseif verb == 'pause' then
  queue.paused = math.max(queue.paused, payload.seconds < 0 and NEVER or now + payload.seconds)
elseif verb == 'resume' then
  queue.paused, queue.turn = math.min(queue.paused, now), ALWAYS
elseif verb == 'leave' then
  redis.call('ZREM', KEYS[2], payload.me)
  redis.call('HDEL', KEYS[3], payload.me)
end
return finish(rev)
