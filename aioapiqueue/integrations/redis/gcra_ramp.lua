-- A `Rate` with a ramp: a token bucket whose rate is a ceiling that grows with use.
-- _limits/ramped.py gives the reasons; comments here explain the differences. The third part of the
-- script: gcra_limits.lua comes before it, gcra_adaptive.lua after.
--
-- Slots are granted ahead, and charged as of their instants: so `turned`, the instant up to which
-- the ceiling is known, may be later than now. Nothing is stored until a call is charged.

local RampedBucket = setmetatable({}, {__index = TokenBucket})
local STEPS = 8           -- of each `per`
-- What the message says of the limit, and under which name it is stored: to see whether it changed.
local RAMP = {
  {'full:i', 'full_interval'}, {'full:b', 'full_burst'}, {'ramp:f', 'floor'},
  {'ramp:g', 'growth'}, {'ramp:r', 'reach'}, {'ramp:p', 'per'},
}
local TURNED = {{'o', 'turned', ALWAYS, nil, now + YEAR}}
local STEP = {
  {'step:s', 'start', ALWAYS, nil, now + YEAR}, {'step:v', 'value', nil, 0, HUGE},
  {'step:m', 'most', nil, 0, HUGE}, {'step:g', 'grows_from', NEVER},
  {'step:c', 'unused', 0, 0, HUGE},
}

-- The Ceiling of ramped.py: `most` is its `cap`, and `turned` of the bucket its `seen`. Rates are in
-- units per microsecond.

local function idle_step(bucket)
  return {
    start = ALWAYS, ends = NEVER, value = 1 / bucket.floor, most = 1 / bucket.floor,
    grows_from = NEVER, unused = 0, sums = {0, 0, 0, 0, 0, 0, 0, 0, 0},
  }
end

-- Return the highest ceiling after what was used in the last eight steps.
local function most_after(bucket, step)
  local used = 0
  for index = 1, STEPS do
    used = used + step.sums[index]
  end
  local mean = used / bucket.per
  return math.min(1 / bucket.full_interval, math.max(1 / bucket.floor, bucket.reach * mean))
end

-- Return when growth begins and ends in a step.
local function growth_of(bucket, step)
  local begins = math.max(step.start, step.grows_from)
  return begins, begins + math.log(step.most / step.value) / bucket.growth
end

local function is_steady(bucket, step, since, till)
  if step.value >= step.most then
    return true
  end
  local begins, ends = growth_of(bucket, step)
  return till <= begins or since >= ends
end

local function ceiling_at(bucket, step, at)
  if step.value >= step.most or at <= step.grows_from then
    return step.value
  end
  local begins, ends = growth_of(bucket, step)
  return at >= ends and step.most or step.value * math.exp(bucket.growth * (at - begins))
end

local function sum_until(bucket, step, till)
  local begins, ends = growth_of(bucket, step)
  if till <= begins then
    return step.value * (till - step.start)
  end
  local grown = math.exp(bucket.growth * (math.min(till, ends) - begins)) - 1
  return step.value * (begins - step.start) + step.value * grown / bucket.growth
    + step.most * math.max(0, till - ends)
end

-- Return what a step admits between two instants of it.
local function admitted(bucket, step, since, till)
  if is_steady(bucket, step, since, till) then
    return ceiling_at(bucket, step, since) * (till - since)
  end
  return sum_until(bucket, step, till) - sum_until(bucket, step, since)
end

-- Return the instant until which a step would admit an amount, if it did not end.
local function reaches(bucket, step, since, amount)
  if is_steady(bucket, step, since, NEVER) then
    return since + amount / ceiling_at(bucket, step, since)
  end
  local begins, ends = growth_of(bucket, step)
  amount = amount + sum_until(bucket, step, since) - step.value * (begins - step.start)
  if amount <= 0 then
    return begins + amount / step.value
  end
  local till = begins + math.log(1 + amount * bucket.growth / step.value) / bucket.growth
  if till <= ends then
    return till
  end
  return ends + (amount - (step.most - step.value) / bucket.growth) / step.most
end

-- Return the step that begins `at`, after another one.
local function begin_step(bucket, at, sums, before, unused)
  local step = idle_step(bucket)
  step.start, step.ends, step.sums = at, at + bucket.per / STEPS, sums
  step.grows_from, step.unused = before.grows_from, unused
  return step
end

-- Return what is used between two instants of a step.
local function used_in(bucket, step, since, till)
  return step.unused > 0 and math.min(step.unused, admitted(bucket, step, since, till)) or 0
end

-- Return the step that follows, if nothing more starts in this one after `since`.
local function next_step(bucket, step, since)
  local used = used_in(bucket, step, since, step.ends)
  local sums, sum = {}, used
  for index = 1, STEPS do
    sums[index] = step.sums[index + 1]
    sum = sum + sums[index]
  end
  if sum <= 0 then
    return idle_step(bucket)
  end
  sums[STEPS], sums[STEPS + 1] = sums[STEPS] + used, 0
  local unused = step.unused - used
  local after = begin_step(bucket, step.ends, sums, step, unused > 1e-9 and unused or 0)
  local most, value = most_after(bucket, after), ceiling_at(bucket, step, step.ends)
  if value < most then
    after.value, after.most = value, 1 / bucket.full_interval
  else
    after.value, after.most = most, most
  end
  return after
end

-- Return the interval and the burst under a ceiling.
local function scaled(bucket, ceiling)
  if ceiling >= 1 / bucket.full_interval then
    return bucket.full_interval, bucket.full_burst
  end
  return 1 / ceiling, math.max(1, bucket.full_burst * bucket.full_interval * ceiling)
end

-- Return the step of an instant until which nothing starts, and what could start then.
local function look_ahead(bucket, at)
  local step, since = bucket.step, bucket.turned
  local tat = TokenBucket.tat(bucket)
  if step.start == ALWAYS then
    return step, bucket.burst - (tat - at) / bucket.interval
  end
  local left = bucket.burst - (tat - since) / bucket.interval
  while step.ends <= at do
    left = left + admitted(bucket, step, since, step.ends)
    since, step = step.ends, next_step(bucket, step, since)
  end
  return step, left + admitted(bucket, step, since, math.max(at, since))
end

-- Return the instant at which a missing amount has been admitted, if nothing starts until then.
local function reached(bucket, step, since, missing, cost)
  while missing > 1e-9 * math.max(1, cost) do
    local at = reaches(bucket, step, since, missing)
    if at <= step.ends then
      return at
    end
    missing = missing - admitted(bucket, step, since, step.ends)
    since, step = step.ends, next_step(bucket, step, math.max(step.start, bucket.turned))
  end
  return since
end

local function turn(bucket, at)
  if at <= bucket.turned then
    return
  end
  local step, left = look_ahead(bucket, at)
  local interval, burst = scaled(bucket, ceiling_at(bucket, step, at))
  if interval ~= bucket.interval or burst ~= bucket.burst then
    local owed = burst - left
    for _, peak in ipairs(bucket.peaks) do
      peak[2] = peak[2] * interval / bucket.interval
    end
    bucket.interval, bucket.burst, bucket.since = interval, burst, ALWAYS
    TokenBucket.restart(bucket, at + math.min(0, owed) * interval, math.max(0, owed))
  end
  if step.start > ALWAYS then
    local used = used_in(bucket, step, math.max(step.start, bucket.turned), at)
    step.sums[STEPS + 1], step.unused = step.sums[STEPS + 1] + used, step.unused - used
  end
  bucket.step, bucket.turned = step, at
end

-- Note what a call is charged; below 0: what it gets back.
local function note_use(bucket, at, cost)
  if bucket.step.start == ALWAYS then
    if cost <= 0 then
      return
    end
    bucket.step = begin_step(bucket, at, idle_step(bucket).sums, bucket.step, 0)
    bucket.step.grows_from = at + bucket.per
  end
  bucket.step.unused = math.max(0, bucket.step.unused + cost)
end

function RampedBucket.on_idle(bucket, at)
  -- Only if it is idle: else nothing would have to be written.
  if bucket.last < at - catch_up and select(2, look_ahead(bucket, at)) > bucket.burst then
    turn(bucket, at)
    TokenBucket.on_idle(bucket, at)
  end
end

function RampedBucket.next_at(bucket, _, cost)
  local due = bucket.anchor + (bucket.used + cost - bucket.burst) * bucket.interval
  local step, since = bucket.step, bucket.turned
  local value = ceiling_at(bucket, step, since)
  while ceiling_at(bucket, step, since) == value
    and is_steady(bucket, step, since, math.min(due, step.ends)) do
    if due <= step.ends then
      return up(due)
    end
    since, step = step.ends, next_step(bucket, step, since)
  end
  if due <= since then
    return up(due)
  end
  local missing = cost - bucket.burst + (TokenBucket.tat(bucket) - since) / bucket.interval
  return up(reached(bucket, step, since, missing, cost))
end

function RampedBucket.consume(bucket, at, cost, held_until, slot)
  turn(bucket, at)
  local latest = TokenBucket.consume(bucket, at, cost, held_until, slot)
  note_use(bucket, at, cost)
  bucket.used_now = true
  return latest
end

function RampedBucket.adjust(bucket, at, cost, charged, started)
  turn(bucket, now)
  local before = TokenBucket.tat(bucket)
  TokenBucket.adjust(bucket, at, cost, charged, started)
  bucket.used_now = true
  local given_back = (before - TokenBucket.tat(bucket)) / bucket.interval
  note_use(bucket, math.max(now, bucket.turned), cost > 0 and cost or -given_back)
end

function RampedBucket.leaves_room(bucket, slot, cost, held, by)
  local step, left = look_ahead(bucket, slot)
  local interval, burst = scaled(bucket, ceiling_at(bucket, step, slot))
  left = math.min(left, burst + math.max(spare, 1) / interval)
  return reached(bucket, step, slot, cost + held - left, held) <= by + 1
end

function RampedBucket.idle_at(bucket)
  local known = TokenBucket.idle_at(bucket)
  if bucket.step.start == ALWAYS then
    return known
  end
  local at = math.max(now, bucket.turned)
  local step, left = look_ahead(bucket, at)
  local _, burst = scaled(bucket, ceiling_at(bucket, step, at))
  local full_at = burst > left and reached(bucket, step, at, burst - left, 1) or known
  return math.max(known, full_at, bucket.last + bucket.per * (1 + 1 / STEPS))
end

function RampedBucket.room(bucket)
  local step, left = look_ahead(bucket, math.max(now + ahead, bucket.turned))
  local interval, burst = scaled(bucket, ceiling_at(bucket, step, math.max(now, bucket.turned)))
  return math.max(ahead / interval, math.min(left, burst + (ahead + catch_up) / interval))
end

function RampedBucket.counts_like(bucket, read, at)
  for _, each in ipairs(RAMP) do
    if read(at .. each[1], nil, 0, HUGE) ~= bucket[each[2]] then
      return false
    end
  end
  return true
end

-- Become the state of the limit that the message has, as `RampedBucket.change` does.
local function change(bucket, limit)
  local at, step = math.max(now, bucket.turned), nil
  turn(bucket, at)
  local owed, former = bucket.burst - select(2, look_ahead(bucket, at)), bucket.step
  local ceiling, used = ceiling_at(bucket, former, at), 0
  for _, sum in ipairs(former.sums) do
    used = used + sum
  end
  local mean = used / bucket.per
  for name, figure_ in pairs(limit) do
    bucket[name] = figure_
  end
  step = idle_step(bucket)
  if former.start > ALWAYS then
    local sums = {0, 0, 0, 0, 0, 0, 0, 0, 0}
    for index = 1, STEPS do
      sums[index] = mean * bucket.per / STEPS
    end
    step = begin_step(bucket, at, sums, former, former.unused)
    step.value = math.max(step.value, math.min(ceiling, most_after(bucket, step)))
    step.most = step.value
  end
  local interval, burst = scaled(bucket, step.value)
  owed = math.min(owed, burst + math.max(0, owed - bucket.burst))
  bucket.step, bucket.turned, bucket.interval, bucket.burst = step, at, interval, burst
  TokenBucket.restart(bucket, at + math.min(0, owed) * interval, math.max(0, owed))
  bucket.peaks, bucket.since, bucket.used_now = {}, ALWAYS, true
  RampedBucket.on_idle(bucket, now)
end

function RampedBucket.load(bucket, read, at, key, fields)
  local limit = {full_interval = bucket.interval, full_burst = bucket.burst}
  local is_other = false
  for _, each in ipairs(RAMP) do
    local _, name = each[1], each[2]
    limit[name] = limit[name] or bucket[name]
    -- As it was charged until now.
    bucket[name] = read(at .. each[1], limit[name], 1e-300, HUGE)
    is_other = is_other or bucket[name] ~= limit[name]
  end
  load_figures(bucket, TURNED, read, at)
  local step = idle_step(bucket)
  if read(at .. 'step:s') and bucket.turned > ALWAYS then
    local floor, top = step.value, 1 / bucket.full_interval
    load_figures(step, STEP, read, at)
    step.ends = step.start + bucket.per / STEPS
    step.value = math.max(floor, math.min(top, step.value or floor))
    step.most = math.max(step.value, math.min(top, step.most or floor))
    step.sums = {}
    for sum in string.gmatch(fields[at .. 'step:u'] or '', '%S+') do
      step.sums[#step.sums + 1] = figure(key, at .. 'step:u', sum, nil, 0, HUGE)
    end
    if #step.sums ~= STEPS + 1 then
      refuse(key, at .. 'step:u', fields[at .. 'step:u'] or '')
    elseif bucket.turned < step.start or bucket.turned > step.ends then
      step = idle_step(bucket)  -- another program has written one of these
    end
  end
  -- What `save` has written, so that the bucket does not take it for another limit.
  bucket.interval, bucket.burst = scaled(bucket, ceiling_at(bucket, step, bucket.turned))
  TokenBucket.load(bucket, read, at, key, fields)
  -- Processes take turns by this: one that comes too early asks once more, but a slot that is
  -- taken too late is lost. So it is what the interval may be some calls from now.
  local shrinks = math.exp(-math.min(1, 8 * bucket.growth * bucket.interval))
  bucket.soonest = math.max(bucket.full_interval, bucket.interval * shrinks)
  bucket.step, bucket.is_other, bucket.used_now = step, is_other, false
  if is_other and verb ~= 'return' then  -- as in TokenBucket.load
    change(bucket, limit)
  end
end

function RampedBucket.take_over(bucket, charges, beside)
  turn(bucket, now)
  local plain = {interval = bucket.full_interval, burst = bucket.full_burst, anchor = ALWAYS}
  plain.used, plain.charged = 0, bucket.charged
  TokenBucket.take_over(plain, charges, beside)
  local owed = (TokenBucket.tat(plain) - now) / plain.interval
  owed = math.min(owed, bucket.burst + math.max(0, owed - plain.burst))
  if owed > (TokenBucket.tat(bucket) - now) / bucket.interval then
    TokenBucket.restart(bucket, now + math.min(0, owed) * bucket.interval, math.max(0, owed))
    bucket.peaks, bucket.used_now = {{math.max(now, bucket.charged), 0}}, true
  end
end

function RampedBucket.save(bucket, set, at)
  if not bucket.used_now then
    return
  end
  TokenBucket.save(bucket, set, at)
  for _, each in ipairs(RAMP) do
    set(at .. each[1], bucket[each[2]], HUGE)
  end
  save_figures(bucket, TURNED, set, at)
  save_figures(bucket.step, STEP, set, at)
  local texts = {}
  for index, sum in ipairs(bucket.step.sums) do
    texts[index] = string.format('%.17g', sum)
  end
  set(at .. 'step:u', bucket.step.start > ALWAYS and table.concat(texts, ' ') or '')
end
