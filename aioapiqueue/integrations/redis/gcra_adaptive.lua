-- The adaptive rate: a token bucket whose rate falls when the API throttles calls. adaptive.py
-- gives the reasons; comments here explain the differences. The fourth part of the script:
-- gcra_ramp.lua comes before it, gcra_answers.lua after.

-- The CubicCurve of adaptive.py. "v" is absent (NEVER) while the value is not lowered.
local CURVE = {{'v', 'value', NEVER, 0}, {'s', 'start', nil, 0}, {'r', 'remembered', nil, 0}}

local function load_curve(ceiling, floor, read, at)
  local curve = {ceiling = ceiling or NEVER, floor = floor}  -- JSON has no infinity
  load_figures(curve, CURVE, read, at)
  -- Limits may have changed since it was saved, and with them the floor.
  curve.value = math.max(floor, curve.value)
  curve.start = curve.start or curve.ceiling
  curve.remembered = curve.remembered or curve.ceiling
  return curve
end

local function lowered(curve)
  return curve.value < curve.ceiling
end

local function allowed(curve)
  return math.min(curve.value, curve.ceiling)
end

local function fall(curve, used, backoff)
  -- Without a ceiling, the rate that was used is all that is known.
  local before = used and allowed(curve) == NEVER and used or allowed(curve)
  if used or not lowered(curve) then  -- else too few calls to measure: keep what was remembered
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

local AdaptiveRate = setmetatable({}, {__index = TokenBucket})
local FIGURES = {  -- beside those of the bucket
  {'slowed', 'backed_off_at', ALWAYS, nil, now + YEAR},
  {'elapsed', 'elapsed', 0},  -- may be below 0: a returned slot moves `last` back
  {'active', 'active', 0},
  {'accepted', 'accepted', 0, 0},
  {'samples', 'samples', 0, 0},  -- number of calls of which `accepted` is the cost
  {'dither', 'dither', 0, 0, 1},
}

local function measure_again(adaptive)
  adaptive.active, adaptive.accepted, adaptive.samples = 0, 0, 0
end

function AdaptiveRate.set_interval(adaptive)
  local interval = lowered(adaptive.rate) and 1e6 / adaptive.rate.value or 0
  if interval ~= adaptive.interval then
    -- What has been charged was charged by the old interval, and must not be revalued.
    TokenBucket.restart(adaptive, TokenBucket.tat(adaptive), 0)
    adaptive.interval, adaptive.since = interval, ALWAYS
  end
end

function AdaptiveRate.on_idle(adaptive, at)
  if at - math.max(adaptive.last, adaptive.backed_off_at) > MEMORY then
    adaptive.rate.value, adaptive.permits.value = NEVER, NEVER
    adaptive.elapsed, adaptive.dither = 0, 0
    measure_again(adaptive)
    AdaptiveRate.set_interval(adaptive)
  end
  TokenBucket.on_idle(adaptive, at)
end

function AdaptiveRate.consume(adaptive, at, cost, held_until, slot)
  local gap = adaptive.last > ALWAYS and (at - adaptive.last) / 1e6 or 0
  -- A longer gap is a time without demand, during which nothing was learnt about the API.
  local busy = 2 * math.max(cost, 1) / allowed(adaptive.rate)
  adaptive.active = adaptive.active + math.min(gap, math.max(1, busy))
  adaptive.accepted, adaptive.samples = adaptive.accepted + cost, adaptive.samples + 1
  if lowered(adaptive.rate) or lowered(adaptive.permits) then
    adaptive.elapsed = adaptive.elapsed + math.min(gap, busy, adaptive.recovery / ENOUGH)
    regrow(adaptive.rate, adaptive.elapsed, adaptive.recovery)
    regrow(adaptive.permits, adaptive.elapsed, adaptive.recovery)
    AdaptiveRate.set_interval(adaptive)
  end
  local latest = TokenBucket.consume(adaptive, at, cost, held_until, slot)
  -- While it probes for more, each call starts at another fraction of its interval: evenly spaced
  -- calls could be in step with those of another client, which would then bear all throttling.
  if adaptive.rate.remembered <= adaptive.rate.value and adaptive.rate.value < NEVER then
    local before = adaptive.dither
    adaptive.dither = (before + GOLDEN) % 1
    adaptive.used = adaptive.used + adaptive.dither - before
  end
  return latest
end

function AdaptiveRate.adjust(adaptive, at, cost, charged, started)
  if at > adaptive.backed_off_at then  -- only calls since the last slow-down are measured
    adaptive.accepted = math.max(0, adaptive.accepted + cost)
  end
  TokenBucket.adjust(adaptive, at, cost, charged, started)
end

function AdaptiveRate.slow_down(adaptive, released_at, running)
  if released_at <= adaptive.backed_off_at then  -- the call started before the last slow-down
    return false
  end
  local used, unlimited = nil, allowed(adaptive.rate) == NEVER
  if unlimited then
    adaptive.active = math.max(adaptive.active, 1)
  end
  -- One call may use any amount of another unit, so for that, calls are counted.
  local seen = adaptive.place == CALLS and adaptive.accepted or adaptive.samples
  if adaptive.active > 0 and (seen >= ENOUGH or unlimited) then
    -- Less the throttled call, which the API did not accept.
    used = math.max(1, adaptive.accepted - 1) / adaptive.active
  end
  fall(adaptive.rate, used, adaptive.backoff)
  if adaptive.concurrency and adaptive.permits.ceiling < NEVER then
    fall(adaptive.permits, math.max(1, running), adaptive.backoff)
  end
  adaptive.backed_off_at = now
  adaptive.elapsed = 0
  measure_again(adaptive)
  AdaptiveRate.set_interval(adaptive)
  -- The next call comes one interval from now; or later, if what was charged is not recovered yet.
  TokenBucket.restart(adaptive, math.max(now, TokenBucket.tat(adaptive) - adaptive.interval), 1)
  adaptive.since = ALWAYS
  return true
end

function AdaptiveRate.idle_at(adaptive)
  if math.min(adaptive.rate.value, adaptive.permits.value) < NEVER then
    return math.max(adaptive.last, adaptive.backed_off_at) + MEMORY
  end
  return TokenBucket.idle_at(adaptive)
end

function AdaptiveRate.load(adaptive, read, at, ...)
  adaptive.burst, adaptive.interval = 1, read(at .. 'i', 0, 0)
  TokenBucket.load(adaptive, read, at, ...)
  load_figures(adaptive, FIGURES, read, at)
  local permits = payload.concurrency
  adaptive.rate = load_curve(adaptive.ceiling, adaptive.floor, read, at .. 'pace:')
  -- Unless the user allows it, permits are not lowered: the floor is the ceiling.
  local floor = adaptive.concurrency or permits or NEVER
  adaptive.permits = load_curve(permits, floor, read, at .. 'places:')
  AdaptiveRate.set_interval(adaptive)
end

function AdaptiveRate.save(adaptive, set, at)
  TokenBucket.save(adaptive, set, at)
  save_figures(adaptive, FIGURES, set, at)
  save_figures(adaptive.rate, CURVE, set, at .. 'pace:')
  save_figures(adaptive.permits, CURVE, set, at .. 'places:')
end
