-- The kinds of limits: token buckets (of a `Rate`) and sliding windows. They are those of
-- _limits/algorithms.py and _limits/windows.py, which give the reasons; comments here explain the
-- differences.
-- The second part of the script: gcra_figures.lua comes before it, gcra_ramp.lua after.

local MEMORY = 3600e6     -- the constants of adaptive.py
local ENOUGH, PROBING = 10, 3
local GOLDEN = 0.618034
local CALLS = 1           -- the place of calls in costs; each limit counts the unit of its place
local PEAKS = 32          -- kept for each bucket; refunds of older calls may be too small
local MOST_READ = 2000    -- entries that another limit takes over; older ones count as one
local AT_ONCE = 64        -- entries of a log read at once: few windows are longer than two parts

local verb, payload = ARGV[1], cjson.decode(ARGV[3])
local catch_up, ahead = payload.catch_up, math.min(payload.ahead, YEAR)
-- The sender may use a slot `lateness` late. The rest of `catch_up` is `spare`: if it asks that
-- late, it still gets the slots that it missed.
local lateness = payload.lateness or 0
local spare = math.max(0, catch_up - lateness)

local function up(time)  -- to a whole microsecond; a nanosecond above one is a rounding error
  return math.ceil(time - 0.001)
end

local TokenBucket = {}
TokenBucket.KEPT = {
  {'a', 'anchor', ALWAYS},
  {'u', 'used', 0},
  {'l', 'last', ALWAYS, nil, now + YEAR},     -- the latest slot so far
  {'c', 'charged', ALWAYS, nil, now + YEAR},  -- the latest slot that was not returned
  -- The last call that cost more than the burst: its slot, and the instant from which it counts.
  {'d', 'above_burst_at', ALWAYS, nil, now + YEAR},
  {'s', 'since', ALWAYS},
}

function TokenBucket.tat(bucket)
  return bucket.anchor + bucket.used * bucket.interval
end

function TokenBucket.restart(bucket, anchor, used)
  bucket.anchor, bucket.used = anchor, used
end

function TokenBucket.on_idle(bucket, at)
  if bucket.last < at - catch_up and TokenBucket.tat(bucket) < at then
    TokenBucket.restart(bucket, at, 0)
  end
end

function TokenBucket.next_at(bucket, _, cost)
  if bucket.anchor == ALWAYS then
    return ALWAYS
  end
  return up(bucket.anchor + (bucket.used + cost - bucket.burst) * bucket.interval)
end

-- Note how far from full a bucket is when a call is charged `at`, so that later refunds of earlier
-- calls never make it fuller than full at that instant.
local function note_peak(bucket, at, slack)
  local peaks = bucket.peaks
  while #peaks > 0 and peaks[#peaks][2] <= slack do
    table.remove(peaks)
  end
  if #peaks == 0 or peaks[#peaks][1] ~= at then
    peaks[#peaks + 1] = {at, slack}
  end
  if #peaks > PEAKS then  -- the two oldest become one: refunds may be too small, not too large
    peaks[2][2] = peaks[1][2]
    table.remove(peaks, 1)
  end
end

-- Charge a call that is due `at` and starts at `slot`; return until when it may start.
function TokenBucket.consume(bucket, at, cost, held_until, slot)
  -- At least 1: a slot that was rounded up by a microsecond is not late. A slot that its lane
  -- delays is late in this bucket already, and may be used as late as the sender says.
  local floor = math.max(slot - math.max(spare, 1), held_until)
  if cost > bucket.burst then
    floor = floor - (cost - bucket.burst) * bucket.interval
  end
  if TokenBucket.tat(bucket) < floor then
    TokenBucket.restart(bucket, floor, 0)
    if cost > bucket.burst then
      bucket.above_burst_at, bucket.since = at, floor
    end
  end
  local latest = math.max(TokenBucket.tat(bucket), TokenBucket.next_at(bucket, at, cost))
  latest = math.min(slot, latest) + catch_up
  if bucket.burst > 1 then  -- a pace is full whenever a call starts
    note_peak(bucket, at, at - TokenBucket.tat(bucket))
  end
  bucket.used = bucket.used + cost
  bucket.last, bucket.charged = math.max(bucket.last, at), math.max(bucket.charged, at)
  return bucket.interval > 0 and latest or NEVER
end

-- Charge `cost` more to a call that started `at`, or refund it (below 0).
-- `charged` is what it has been charged until now, `started` what it was charged as it started.
function TokenBucket.adjust(bucket, at, cost, charged, started)
  -- A call above the burst has waited for the excess. That is refunded only if its slot is returned
  -- and no other call has started since: else the next call would not have to wait.
  if cost < 0 and math.min(charged, started) > bucket.burst then
    local is_followed = TokenBucket.tat(bucket) - bucket.since > charged * bucket.interval + 1
    if verb ~= 'return' or at ~= bucket.charged or at == bucket.above_burst_at and is_followed then
      cost = math.min(0, charged + cost - bucket.burst)
    end
  end
  if cost > 0 then  -- charged as a call of its own that starts now
    bucket:on_idle(now)
    if TokenBucket.tat(bucket) < now - catch_up then
      TokenBucket.restart(bucket, now - catch_up, 0)
    end
    -- Slots that were granted ahead have later instants than `now`, and peaks are in order.
    local last = bucket.peaks[#bucket.peaks]
    local slack = now - TokenBucket.tat(bucket)
    note_peak(bucket, math.max(now, last and last[1] or now), slack)
  else
    if at ~= bucket.charged and bucket.burst == 1 then
      return  -- the calls after it have kept their distance already
    end
    -- The refund must not make the bucket fuller than full at any peak after the call.
    local later = nil
    for _, peak in ipairs(bucket.peaks) do
      if peak[1] > at then
        later = math.max(later or ALWAYS, peak[2])
      end
    end
    if later or at ~= bucket.charged then
      cost = math.min(0, math.max(cost, (later or 0) / bucket.interval))
      for _, peak in ipairs(bucket.peaks) do
        if peak[1] > at then
          peak[2] = peak[2] - cost * bucket.interval
        end
      end
    end
  end
  bucket.used = math.max(0, bucket.used + cost)
  -- The slot before it is the latest now: so several slots can be returned, the latest first.
  if verb == 'return' and bucket.burst == 1 then
    bucket.charged = math.min(bucket.charged, up(TokenBucket.tat(bucket) - bucket.interval))
  end
end

-- Return whether the cost `held` has room at the instant `by` if `cost` starts at `slot`.
function TokenBucket.leaves_room(bucket, slot, cost, held, by)
  local tat = math.max(TokenBucket.tat(bucket), slot - math.max(spare, 1))
  return tat + (cost + held - bucket.burst) * bucket.interval <= by + 1
end

function TokenBucket.idle_at(bucket)
  return math.max(TokenBucket.tat(bucket), bucket.last + catch_up)
end

-- Return how much could start within `ahead` if no other process asked.
function TokenBucket.room(bucket)
  if bucket.interval == 0 then
    return NEVER
  end
  local since = math.max(TokenBucket.tat(bucket), now - catch_up)
  local left = (now + ahead - since) / bucket.interval + bucket.burst
  return math.max(ahead / bucket.interval, left)
end

-- Return whether the state stored under the name `at` is of a limit with the same figures.
function TokenBucket.counts_like(bucket, read, at)
  return read(at .. 'i', nil, 0, HUGE) == bucket.interval
    and read(at .. 'b', nil, 0, HUGE) == bucket.burst
end

function TokenBucket.load(bucket, read, at, key, fields)
  load_figures(bucket, TokenBucket.KEPT, read, at)
  bucket.peaks = {}
  for peak in string.gmatch(fields[at .. 'p'] or '', '%S+') do
    local start, slack = string.match(peak, '^(%S+):(%S+)$')
    if not slack then
      refuse(key, at .. 'p', peak)
    end
    table.insert(bucket.peaks, {figure(key, at .. 'p', start), figure(key, at .. 'p', slack)})
  end
  local interval = read(at .. 'i', bucket.interval, 0, HUGE)
  local burst = read(at .. 'b', bucket.burst, 0, HUGE)
  if bucket.anchor + bucket.used * interval > LATEST then
    refuse(key, at .. 'u', fields[at .. 'u'])  -- `save` never writes a later instant
  end
  bucket.is_other = interval ~= bucket.interval or burst ~= bucket.burst
  -- A process that changes limits first returns its slots: as they were charged, by the old limits.
  if verb == 'return' then
    bucket.interval, bucket.burst = interval, burst
  elseif bucket.is_other then
    if interval > 0 then  -- what has not recovered is carried over, in calls
      local owed_until, from = bucket.anchor + bucket.used * interval, math.max(now, bucket.charged)
      TokenBucket.restart(bucket, from, math.max(0, (owed_until - from) / interval))
    end
    bucket.peaks, bucket.since = {}, ALWAYS
    TokenBucket.on_idle(bucket, now)
  end
end

-- Return the charges that still count, {instant, amount} each, the oldest first. A bucket has only
-- one: what has not recovered, as of now.
function TokenBucket.charges_of(read, at)
  local bucket = {interval = read(at .. 'i', 0, 0, HUGE)}
  load_figures(bucket, TokenBucket.KEPT, read, at)
  local owed = (TokenBucket.tat(bucket) - now) / bucket.interval
  return bucket.interval > 0 and owed > 0 and {{now, owed}} or {}
end

-- Count the charges of another limit of this unit, unless more is counted already. If that limit
-- stays in force `beside` this one, this one starts used up at worst: a pace that is added to a
-- spent day would otherwise wait for all of that day.
function TokenBucket.take_over(bucket, charges, beside)
  local tat = ALWAYS
  for _, charge in ipairs(charges) do
    tat = math.max(tat, charge[1]) + charge[2] * bucket.interval
  end
  if beside then
    tat = math.min(tat, now + bucket.burst * bucket.interval)
  end
  if tat > TokenBucket.tat(bucket) then  -- also if it is in the past: it was not idle until then
    TokenBucket.restart(bucket, tat, 0)
    -- Calls until now refund nothing: it is unknown which of the charges are theirs.
    bucket.peaks = {{math.max(now, bucket.charged), 0}}
  end
end

function TokenBucket.save(bucket, set, at)
  local anchor, tat = bucket.anchor, TokenBucket.tat(bucket)
  if anchor > ALWAYS and (tat > LATEST or bucket.used > LATEST or anchor < -LATEST) then
    TokenBucket.restart(bucket, math.min(LATEST, tat), 0)  -- or `load` would refuse it
  end
  save_figures(bucket, TokenBucket.KEPT, set, at)
  set(at .. 'i', bucket.interval, HUGE)
  set(at .. 'b', bucket.burst, HUGE)
  local peaks = {}
  for index, peak in ipairs(bucket.peaks) do
    local slack = math.max(-LATEST, math.min(LATEST, peak[2]))
    peaks[index] = string.format('%.17g:%.17g', peak[1], slack)
  end
  set(at .. 'p', table.concat(peaks, ' '))
end

-- The log of a window is a list of "instant:cost:used", oldest first. An entry ends `per` after the
-- latest instant at which its slot can have been used, so that the window holds for real starts, in
-- any process. One message may need the same entries for hundreds of slots or changes: so each is
-- read once, and new ones are written at the end.
--
-- Fields of a window: `total` is the cost of the whole log; `passed` entries at its start, of the
-- cost `gone`, have ended by `passed_at`; `parts` are parts of the log as read, by the number of
-- their first entry; `tail` is the latest entry (nil: unread; false: none); `added` entries are not
-- written yet; `changed` is the tail, if it is written but costs more by now; `from_end` are
-- entries by their place from the end.
local SlidingWindow = {}

local function entry(window, text)
  if text then
    local key, name, at, cost, used = window.log, 'an entry', split(window.log, 'an entry', text)
    -- A cost is at least 0, except for rounding errors of fractions.
    cost = figure(key, name, cost, nil, -1, HUGE)
    used = figure(key, name, used)
    return {at = figure(key, name, at), cost = cost, ends = used + window.per, text = text}
  end
end

local function entry_at(window, index)
  return entry(window, redis.call('LINDEX', window.log, index))
end

local function logged(window, each)
  local used = math.min(LATEST, each.ends - window.per)
  each.text = string.format('%.0f:%.17g:%.0f', each.at, each.cost, used)
  return each.text
end

-- Put the tail, whose cost may still grow, in its place in a part that was read.
local function place_tail(window, part)
  local last, tail = part[#part], window.tail
  if tail and last and (#part < AT_ONCE or (last.text or last) == tail.text) then
    part[#part] = tail
  end
end

local function tail_of(window)
  if window.tail == nil then
    window.tail = entry_at(window, -1) or false
    for _, part in pairs(window.parts) do
      place_tail(window, part)
    end
  end
  return window.tail
end

local function write(window)
  if window.changed then
    redis.call('LSET', window.log, -1, logged(window, window.changed))
    window.changed = nil
  end
  if #window.added > 0 then
    for index, each in ipairs(window.added) do
      window.added[index] = logged(window, each)
    end
    for first = 1, #window.added, 1000 do  -- `unpack` has a limit of some thousands
      local last = math.min(first + 999, #window.added)
      redis.call('RPUSH', window.log, unpack(window.added, first, last))
    end
    window.added = {}
  end
end

-- Return an entry by its number; 0 is the oldest.
local function nth(window, number)
  local place = number % AT_ONCE
  local start = number - place
  local part = window.parts[start]
  if not part then
    write(window)  -- so that the part has all entries
    part = redis.call('LRANGE', window.log, start, start + AT_ONCE - 1)
    window.parts[start] = part
    place_tail(window, part)
    window.last_part = #part < AT_ONCE and part or window.last_part
  end
  local each = part[place + 1]
  if type(each) == 'string' then
    each = entry(window, each)
    part[place + 1] = each
  end
  return each
end

-- Skip the entries that have ended `at`. That may be a future instant, and a later call may concern
-- an earlier one, perhaps from another process: so only what has ended by now is removed from the
-- log.
function SlidingWindow.pass(window, at)
  if not window.passed_at then
    local oldest = entry_at(window, 0)
    while oldest and oldest.ends <= now do
      redis.call('LPOP', window.log)
      window.total = math.max(0, window.total - oldest.cost)
      oldest = entry_at(window, 0)
    end
    if not oldest then
      window.total = 0  -- drops the rounding errors of fractions
    end
  end
  if not window.passed_at or at < window.passed_at then
    window.passed, window.gone = 0, 0
  end
  window.passed_at = at
  local each = nth(window, window.passed)
  while each and each.ends <= at do
    window.passed, window.gone = window.passed + 1, window.gone + each.cost
    each = nth(window, window.passed)
  end
  if not each then
    window.gone = window.total  -- exactly, without rounding errors
  end
end

function SlidingWindow.on_idle() end

local function rounding_of(window)  -- fractions such as 0.1 do not add up; but never a whole call
  return math.min(0.5, 1e-9 * window.calls)
end

function SlidingWindow.next_at(window, at, cost)
  SlidingWindow.pass(window, at)
  local excess, ready_at = window.total - window.gone + cost - window.calls, ALWAYS
  local number, sum = window.passed, window.gone
  local rounding = rounding_of(window)
  while excess > rounding do
    local each = nth(window, number)
    if each then
      excess, sum = excess - each.cost, sum + each.cost
      ready_at, number = math.max(ready_at, each.ends), number + 1
    elseif window.total > sum then  -- by rounding, or by another program: the log is right
      window.total = sum
      return SlidingWindow.next_at(window, at, cost)
    else
      return NEVER  -- the cost exceeds the window
    end
  end
  return ready_at
end

function SlidingWindow.consume(window, _, cost, _, slot)
  local tail = tail_of(window)
  local used = slot + window.per + lateness  -- the sender may use the slot that late
  if tail and tail.at == slot then
    tail.cost, tail.ends = tail.cost + cost, math.max(tail.ends, used)
    window.changed = #window.added == 0 and tail or window.changed
  else
    tail = {at = slot, cost = cost, ends = used}
    window.tail, window.added[#window.added + 1] = tail, tail
    local part = window.last_part
    if part then
      part[#part + 1] = tail
      window.last_part = #part < AT_ONCE and part or nil
    end
  end
  window.total = window.total + cost
  return NEVER
end

-- Return the entry of the slot `at` and its place from the end, or else (nil, nil) the first entry
-- after it. Entries are in order, except those that a lane has delayed, by `catch_up` at most. So a
-- binary search from the end comes close to it.
local function find(window, at)
  local function is_before(place, instant)
    local each = window.from_end[place]
    if each == nil then
      each = entry_at(window, -place) or false
      window.from_end[place] = each
    end
    return not each or each.at < instant
  end
  local function later_than(instant)
    local low, high = 0, 1
    while not is_before(high, instant) do
      low, high = high, 2 * high
    end
    while high - low > 1 do
      local middle = math.floor((low + high) / 2)
      if is_before(middle, instant) then
        high = middle
      else
        low = middle
      end
    end
    return low
  end
  local place = later_than(at)
  if place > 0 and window.from_end[place].at == at then
    return window.from_end[place], place
  end
  local after = nil
  for late = later_than(at - catch_up), 1, -1 do
    local each = not is_before(late, ALWAYS) and window.from_end[late]
    if each.at == at then
      return each, late
    elseif each.at > at and not after then
      after = each
    elseif each.at >= at + catch_up then
      break
    end
  end
  return nil, nil, after
end

function SlidingWindow.adjust(window, at, cost, charged, _, late)
  local each, place, after = find(window, at)
  if each and cost < 0 and each.cost < charged - rounding_of(window) then
    return  -- the entry is of other calls of that instant: this one came under other limits
  elseif each then
    each.cost = each.cost + cost
    redis.call('LSET', window.log, -place, logged(window, each))
    window.total = window.total + cost
    return
  end
  -- The call was estimated to use nothing of this unit. It has started by now, at the latest.
  local ends = math.min(now, at + math.max(catch_up, late)) + window.per
  if cost > 0 and ends > now then
    local text = logged(window, {at = at, cost = cost, ends = ends})
    if after then
      redis.call('LINSERT', window.log, 'BEFORE', after.text, text)
    else
      redis.call('RPUSH', window.log, text)
    end
    window.from_end = {}
    window.total = window.total + cost
  end
end

function SlidingWindow.leaves_room(window, slot, cost, held, by)
  if cost + held > window.calls then  -- never both at once: `held` must wait for `cost` to end
    return slot + window.per + lateness <= by
  end
  return SlidingWindow.next_at(window, slot, cost + held) <= by
end

function SlidingWindow.idle_at(window)
  local tail = tail_of(window)
  return tail and tail.ends or ALWAYS
end

function SlidingWindow.room(window)
  SlidingWindow.pass(window, now)
  return window.calls - (window.total - window.gone)
end

function SlidingWindow.counts_like(window, read, at)
  return read(at .. 'w', nil, 0, HUGE) == window.per
end

function SlidingWindow.load(window, read, at)
  window.log = KEYS[window.log]
  window.parts, window.added, window.from_end = {}, {}, {}
  window.total = read(at .. 'n', nil, -1, HUGE)  -- -1: as in `entry`
  window.known_per = read(at .. 'w', window.per, 0, HUGE)
  window.is_other = window.known_per ~= window.per
  if verb ~= 'return' then  -- as in TokenBucket.load
    window.known_per = window.per
  end
  if not window.total then  -- the state is new, or has expired: its log counts no more
    redis.call('DEL', window.log)
    window.total = 0
  end
end

-- As of a bucket; the third part is when an entry ends: those that have ended may still be there.
-- The log of a removed limit is a key of this quota that this message has not declared. If the server
-- refuses to read such keys, the whole log counts as of now.
function SlidingWindow.charges_of(read, at, log)
  local total, charges, sum = read(at .. 'n', 0, -1, HUGE), {}, 0
  local per = read(at .. 'w', 0, 0, HUGE)
  local texts = redis.pcall('LRANGE', log, -MOST_READ, -1)
  if texts.err then
    return total > 0 and {{now, total}} or {}
  end
  for index, text in ipairs(texts) do
    local each = entry({log = log, per = 0}, text)
    charges[index] = {each.at, each.cost, each.ends + per}
    sum = sum + each.cost
  end
  if #texts == MOST_READ then
    charges[1][2] = charges[1][2] + math.max(0, total - sum)
  end
  return charges
end

-- Both logs may contain the same calls. So the merged log counts, since each instant, as much as
-- the log that has more.
function SlidingWindow.take_over(window, charges)
  local known, theirs = {}, 0
  for _, charge in ipairs(charges) do
    local ends = charge[1] + window.per + catch_up  -- it may have been used so late
    if ends > now then
      known[#known + 1] = {at = charge[1], mine = 0, theirs = charge[2], ends = ends}
      theirs = theirs + charge[2]
    end
  end
  SlidingWindow.pass(window, now)
  local mine = 0
  while mine < theirs do  -- older entries stay: these have as much as all `charges`
    local text = redis.call('RPOP', window.log)
    if not text then
      break
    end
    local each = entry(window, text)
    known[#known + 1] = {at = each.at, mine = each.cost, theirs = 0, ends = each.ends}
    mine = mine + each.cost
  end
  table.sort(known, function(one, other) return one.at > other.at end)
  window.total = window.total - mine
  local added, sum = {}, 0
  mine, theirs = 0, 0
  for _, each in ipairs(known) do
    mine, theirs = mine + each.mine, theirs + each.theirs
    if math.max(mine, theirs) > sum then
      local more = math.max(mine, theirs) - sum
      table.insert(added, 1, {at = each.at, cost = more, ends = each.ends})
      sum = sum + more
    end
  end
  window.added, window.total, window.parts, window.from_end = added, window.total + sum, {}, {}
  window.passed_at, window.tail, window.last_part = nil, nil, nil
  write(window)
end

function SlidingWindow.save(window, set, at)
  write(window)
  set(at .. 'n', window.total, HUGE)
  set(at .. 'w', window.known_per, HUGE)
end
