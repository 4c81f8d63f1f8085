-- The kinds of limits: rates (pace), windows and, where a schedule is adaptive, a governor, which is
-- a pace too. The second part of a script: gcra_figures.lua comes before it, gcra.lua after.

local MEMORY = 3600e6     -- as adaptive.py
local ENOUGH, PROBING = 10, 3
local GOLDEN = 0.618034

local verb, payload = ARGV[1], cjson.decode(ARGV[3])
local catch_up, ahead = payload.catch_up, math.min(payload.ahead, YEAR)
-- Of `catch_up`, whoever asks needs `late` for itself: so much is left for asking late.
local spare = math.max(0, catch_up - (payload.lateness or 0))

local function up(time)  -- to a whole microsecond; what is a nanosecond above one is that one
  return math.ceil(time - 0.001)
end

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

-- Charge what starts at `slot`; return until when it may start all the same.
function Pace.take(pace, at, cost, held, slot)
  local floor = math.max(at - math.max(spare, 1), held)  -- what was rounded up is not late
  if cost > pace.burst then
    floor = floor - (cost - pace.burst) * pace.interval
  end
  if Pace.tat(pace) < floor then
    Pace.restart(pace, floor, 0)
  end
  local until_ = math.min(slot, math.max(Pace.tat(pace), Pace.due(pace, at, cost))) + catch_up
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
  pace.last, pace.charged = math.max(pace.last, at), math.max(pace.charged, at)
  return pace.interval > 0 and until_ or NEVER
end

function Pace.adjust(pace, at, cost)
  if cost < 0 and at ~= pace.charged then
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
    pace.charged = math.min(pace.charged, up(Pace.tat(pace) - pace.interval))
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

function Pace.load(pace, read, at, key, fields)
  pace.anchor = read(at .. 'a', ALWAYS)
  pace.used = read(at .. 'u', 0)
  pace.last = read(at .. 'l', ALWAYS, nil, now + YEAR)     -- the latest slot so far
  pace.charged = read(at .. 'c', ALWAYS, nil, now + YEAR)  -- the latest that was not returned
  pace.peaks = {}
  for peak in string.gmatch(fields[at .. 'p'] or '', '%S+') do
    local start, slack = string.match(peak, '^(%S+):(%S+)$')
    if not slack then
      refuse(key, at .. 'p', peak)
    end
    table.insert(pace.peaks, {figure(key, at .. 'p', start), figure(key, at .. 'p', slack)})
  end
  local before = read(at .. 'i', pace.interval, 0, HUGE)
  local burst = read(at .. 'b', pace.burst, 0, HUGE)
  if pace.anchor + pace.used * before > LATEST then
    refuse(key, at .. 'u', fields[at .. 'u'])  -- `save` leaves none that is later
  end
  if verb == 'return' then  -- as it was charged: other limits have not been said yet
    pace.interval, pace.burst = before, burst
  elseif before ~= pace.interval or burst ~= pace.burst then  -- other limits: what is owed is carried over, in calls
    if before > 0 then
      local tat, from = pace.anchor + pace.used * before, math.max(now, pace.charged)
      Pace.restart(pace, from, math.max(0, (tat - from) / before))
    end
    pace.peaks = {}
    Pace.touch(pace, now)
  end
end

function Pace.save(pace, set, at)
  local tat = Pace.tat(pace)
  if pace.anchor > ALWAYS and (tat > LATEST or pace.used > LATEST or pace.anchor < -LATEST) then
    Pace.restart(pace, math.min(LATEST, tat), 0)  -- a cost that nobody can ever pay
  end
  set(at .. 'i', pace.interval, HUGE)
  set(at .. 'b', pace.burst, HUGE)
  set(at .. 'a', pace.anchor)
  set(at .. 'u', pace.used)
  set(at .. 'l', pace.last)
  set(at .. 'c', pace.charged)
  local peaks = {}
  for index, peak in ipairs(pace.peaks) do
    local slack = math.max(-LATEST, math.min(LATEST, peak[2]))
    peaks[index] = string.format('%.17g:%.17g', peak[1], slack)
  end
  set(at .. 'p', table.concat(peaks, ' '))
end

-- Its log is a list of "instant:cost:end", oldest first. It ends `per` after the latest moment at
-- which the slot can have been used: so it holds for what really started, whoever started it.
local Window = {}

local function entry(window, text)
  if text then
    local key, name, at, cost, ends = window.log, 'an entry', split(window.log, 'an entry', text)
    -- What it costs is 0 at least, but for what fractions have added up to.
    return figure(key, name, at), figure(key, name, cost, nil, -1, HUGE), figure(key, name, ends)
  end
end

function Window.forget(window, at)
  while true do
    local start, cost, ends = entry(window, redis.call('LINDEX', window.log, 0))
    if not start then
      window.total = 0  -- drops what error fractions of cost have added up to
      return
    elseif ends > at then
      return
    end
    redis.call('LPOP', window.log)
    window.total = math.max(0, window.total - cost)
  end
end

function Window.touch() end

function Window.due(window, at, cost)
  Window.forget(window, at)
  local excess, due, from, sum = window.total + cost - window.calls, ALWAYS, 0, 0
  local rounding = math.min(0.5, 1e-9 * window.calls)  -- fractions such as 0.1 do not add up
  while excess > rounding do
    local entries = redis.call('LRANGE', window.log, from, from + 63)
    for _, text in ipairs(entries) do
      if excess > rounding then
        local _, spent, ends = entry(window, text)
        excess, due, sum = excess - spent, math.max(due, ends), sum + spent
      end
    end
    if #entries < 64 then
      if excess <= rounding then
        return due
      elseif window.total > sum then  -- by what was rounded, or by what is not ours: the log counts
        window.total = sum
        return Window.due(window, at, cost)
      end
      return NEVER  -- the window is smaller than the cost
    end
    from = from + 64
  end
  return due
end

local function logged(at, cost, ends)
  return string.format('%.0f:%.17g:%.0f', at, cost, math.min(LATEST, ends))
end

function Window.take(window, _, cost, _, at)
  local start, spent, ends = entry(window, redis.call('LINDEX', window.log, -1))
  local used = at + window.per + (payload.lateness or 0)
  if start == at then
    redis.call('LSET', window.log, -1, logged(at, spent + cost, math.max(ends, used)))
  else
    redis.call('RPUSH', window.log, logged(at, cost, used))
  end
  window.total = window.total + cost
  return NEVER
end

function Window.adjust(window, at, cost)
  local index = -1
  while true do
    local start, spent, ends = entry(window, redis.call('LINDEX', window.log, index))
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
  local _, _, ends = entry(window, redis.call('LINDEX', window.log, -1))
  return ends or ALWAYS
end

function Window.room(window)
  Window.forget(window, now)
  return window.calls - window.total
end

function Window.load(window, read, at)
  window.log = KEYS[window.log]
  window.total = read(at .. 'n', nil, -1, HUGE)  -- as of an entry's cost
  if not window.total then
    redis.call('DEL', window.log)
    window.total = 0
  end
end

function Window.save(window, set, at)
  set(at .. 'n', window.total, HUGE)
end

local Governor = setmetatable({}, {__index = Pace})  -- as adaptive.py: see there

local function curve(ceiling, floor, read, at)
  ceiling = ceiling or NEVER  -- JSON knows no infinity
  return {
    ceiling = ceiling,
    floor = floor,
    value = math.max(floor, read(at .. 'v', NEVER, 0)),
    start = read(at .. 's', ceiling, 0),
    remembered = read(at .. 'r', ceiling, 0),
  }
end

local function lowered(curve)
  return curve.value < curve.ceiling
end

local function allowed(curve)
  return math.min(curve.value, curve.ceiling)
end

local function fall(curve, used, backoff)
  local before = used and allowed(curve) == NEVER and used or allowed(curve)
  if used or not lowered(curve) then  -- too little to measure: what was remembered still holds
    curve.remembered = math.min(used or before, before)
  end
  curve.start = math.min(backoff * before, math.sqrt(backoff) * curve.remembered)
  curve.start = math.max(curve.floor, curve.start)
  curve.value = curve.start
  curve.remembered = math.max(curve.remembered, 1.1 * curve.start)
end

local function regrow(curve, elapsed, recovery)
  if lowered(curve) then
    local x = elapsed / recovery - 1
    x = x < 0 and x or x / PROBING
    local value = curve.remembered + (curve.remembered - curve.start) * x ^ 3
    curve.value = value >= curve.ceiling and NEVER or math.max(curve.floor, value)
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
  governor.pace.value, governor.places.value = NEVER, NEVER
  governor.elapsed, governor.active, governor.accepted, governor.dither = 0, 0, 0, 0
  Governor.set_interval(governor)
end

function Governor.touch(governor, at)
  if at - math.max(governor.last, governor.slowed) > MEMORY then
    Governor.forget(governor)
  end
  Pace.touch(governor, at)
end

function Governor.take(governor, at, cost, held, slot)
  local gap = governor.last > ALWAYS and (at - governor.last) / 1e6 or 0
  local busy = 2 * math.max(cost, 1) / allowed(governor.pace)
  governor.active = governor.active + math.min(gap, math.max(1, busy))
  governor.accepted = governor.accepted + cost
  if lowered(governor.pace) or lowered(governor.places) then
    governor.elapsed = governor.elapsed + math.min(gap, busy, governor.recovery / ENOUGH)
    regrow(governor.pace, governor.elapsed, governor.recovery)
    regrow(governor.places, governor.elapsed, governor.recovery)
    Governor.set_interval(governor)
  end
  local latest = Pace.take(governor, at, cost, held, slot)
  if governor.pace.remembered <= governor.pace.value and governor.pace.value < NEVER then
    local before = governor.dither
    governor.dither = (before + GOLDEN) % 1
    governor.used = governor.used + governor.dither - before
  end
  return latest
end

function Governor.adjust(governor, at, cost)
  governor.accepted = math.max(0, governor.accepted + cost)
  Pace.adjust(governor, at, cost)
end

function Governor.push_back(governor, since, running)
  if since <= governor.slowed then
    return false
  end
  local used, unlimited = nil, allowed(governor.pace) == NEVER
  if unlimited then
    governor.active = math.max(governor.active, 1)
  end
  if governor.active > 0 and (governor.accepted >= ENOUGH or unlimited) then
    used = math.max(1, governor.accepted - 1) / governor.active
  end
  fall(governor.pace, used, governor.backoff)
  if governor.concurrency and governor.places.ceiling < NEVER then
    fall(governor.places, math.max(1, running), governor.backoff)
  end
  governor.slowed = now
  governor.elapsed, governor.active, governor.accepted = 0, 0, 0
  Governor.set_interval(governor)
  Pace.restart(governor, math.max(now, Pace.tat(governor) - governor.interval), 1)
  return true
end

function Governor.fresh_at(governor)
  if math.min(governor.pace.value, governor.places.value) < NEVER then
    return math.max(governor.last, governor.slowed) + MEMORY
  end
  return Pace.fresh_at(governor)
end

function Governor.load(governor, read, at, ...)
  governor.burst, governor.interval = 1, read(at .. 'i', 0, 0)
  Pace.load(governor, read, at, ...)
  governor.slowed = read(at .. 'slowed', ALWAYS, nil, now + YEAR)
  governor.elapsed = read(at .. 'elapsed', 0)  -- a return may leave less than 0: a microsecond
  governor.active = read(at .. 'active', 0)
  governor.accepted = read(at .. 'accepted', 0, 0)
  governor.dither = read(at .. 'dither', 0, 0, 1)
  local places = payload.concurrency
  governor.pace = curve(governor.ceiling, governor.floor, read, at .. 'pace:')
  governor.places = curve(places, governor.concurrency or places or NEVER, read, at .. 'places:')
  Governor.set_interval(governor)
end

function Governor.save(governor, set, at)
  Pace.save(governor, set, at)
  for _, name in ipairs({'slowed', 'elapsed', 'active', 'accepted', 'dither'}) do
    set(at .. name, governor[name])
  end
  for _, name in ipairs({'pace', 'places'}) do
    local curve = governor[name]
    if curve.value < NEVER then
      set(at .. name .. ':v', curve.value)
      set(at .. name .. ':s', curve.start)
      set(at .. name .. ':r', curve.remembered)
    else
      set(at .. name .. ':v', NEVER)
    end
  end
end
