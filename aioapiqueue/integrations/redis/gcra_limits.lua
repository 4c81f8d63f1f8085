-- The kinds of limits: token buckets (of a `Rate`) and sliding windows. They are those of
-- _limits/algorithms.py and _limits/windows.py, where the reasons are; comments here say what differs.
-- The second part of a script: gcra_figures.lua comes before it, gcra_adaptive.lua after.

local MEMORY = 3600e6     -- as adaptive.py
local ENOUGH, PROBING = 10, 3
local GOLDEN = 0.618034
local PEAKS = 32          -- so many bursts ago, refunds are still exact
local MOST_READ = 2000    -- entries of a log that another limit takes over, older ones as one
local AT_ONCE = 64        -- entries of a log read at once: a window is rarely longer than two such

local verb, payload = ARGV[1], cjson.decode(ARGV[3])
local catch_up, ahead = payload.catch_up, math.min(payload.ahead, YEAR)
-- Of `catch_up`, the sender needs `lateness` to use a slot: so much is left for asking late.
local lateness = payload.lateness or 0
local spare = math.max(0, catch_up - lateness)

local function up(time)  -- to a whole microsecond; what is a nanosecond above one is that one
  return math.ceil(time - 0.001)
end

local TokenBucket = {}
TokenBucket.KEPT = {
  {'a', 'anchor', ALWAYS},
  {'u', 'used', 0},
  {'l', 'last', ALWAYS, nil, now + YEAR},     -- the latest slot so far
  {'c', 'charged', ALWAYS, nil, now + YEAR},  -- the latest that was not returned
  -- The last call that cost more than the burst, and counted from so much earlier: when, from when.
  {'d', 'dear', ALWAYS, nil, now + YEAR},
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

-- Note how far from full a bucket is when something is charged `at`, so that later refunds of earlier
-- calls never leave it more than full at that instant.
local function note_peak(bucket, at, slack)
  local peaks = bucket.peaks
  while #peaks > 0 and peaks[#peaks][2] <= slack do
    table.remove(peaks)
  end
  if #peaks == 0 or peaks[#peaks][1] ~= at then
    peaks[#peaks + 1] = {at, slack}
  end
  if #peaks > PEAKS then  -- too little may be refunded for those, never too much
    peaks[2][2] = peaks[1][2]
    table.remove(peaks, 1)
  end
end

-- Charge what starts at `slot`; return until when it may start all the same.
function TokenBucket.consume(bucket, at, cost, held_until, slot)
  -- What was rounded up is not late. A slot that its lane moves on from `at` is late already, and
  -- may be used as late as the sender says.
  local floor = math.max(slot - math.max(spare, 1), held_until)
  if cost > bucket.burst then
    floor = floor - (cost - bucket.burst) * bucket.interval
  end
  if TokenBucket.tat(bucket) < floor then
    TokenBucket.restart(bucket, floor, 0)
    if cost > bucket.burst then
      bucket.dear, bucket.since = at, floor
    end
  end
  local latest = math.max(TokenBucket.tat(bucket), TokenBucket.next_at(bucket, at, cost))
  latest = math.min(slot, latest) + catch_up
  if bucket.burst > 1 then  -- else it is full
    note_peak(bucket, at, at - TokenBucket.tat(bucket))
  end
  bucket.used = bucket.used + cost
  bucket.last, bucket.charged = math.max(bucket.last, at), math.max(bucket.charged, at)
  return bucket.interval > 0 and latest or NEVER
end

-- Charge more for what started `at` and was `charged` (by then), or (less than 0) give it back.
function TokenBucket.adjust(bucket, at, cost, charged, started)
  if cost < 0 and math.min(charged, started) > bucket.burst then
    local others = TokenBucket.tat(bucket) - bucket.since > charged * bucket.interval + 1
    if verb ~= 'return' or at ~= bucket.charged or at == bucket.dear and others then
      cost = math.min(0, charged + cost - bucket.burst)  -- what it had waited for is only its own
    end
  end
  if cost > 0 then  -- learnt now: as if it were a call of its own that starts now
    bucket:on_idle(now)
    if TokenBucket.tat(bucket) < now - catch_up then
      TokenBucket.restart(bucket, now - catch_up, 0)
    end
    -- Slots that were granted ahead of time have later instants, and peaks are in their order.
    local last = bucket.peaks[#bucket.peaks]
    local slack = now - TokenBucket.tat(bucket)
    note_peak(bucket, math.max(now, last and last[1] or now), slack)
  else
    if at ~= bucket.charged and bucket.burst == 1 then
      return
    end
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
  if verb == 'return' and bucket.burst == 1 then  -- so that the one before it can be returned too
    bucket.charged = math.min(bucket.charged, up(TokenBucket.tat(bucket) - bucket.interval))
  end
end

-- Return whether `held` has room at the instant `by` if `cost` starts at `slot`.
function TokenBucket.leaves_room(bucket, slot, cost, held, by)
  local tat = math.max(TokenBucket.tat(bucket), slot - math.max(spare, 1))
  return tat + (cost + held - bucket.burst) * bucket.interval <= by + 1
end

function TokenBucket.idle_at(bucket)
  return math.max(TokenBucket.tat(bucket), bucket.last + catch_up)
end

-- How many could start within `ahead` if nobody else came.
function TokenBucket.room(bucket)
  if bucket.interval == 0 then
    return NEVER
  end
  local since = math.max(TokenBucket.tat(bucket), now - catch_up)
  local left = (now + ahead - since) / bucket.interval + bucket.burst
  return math.max(ahead / bucket.interval, left)
end

-- Return whether what is kept `at` is the state of a limit that counts the same calls, for as long.
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
    refuse(key, at .. 'u', fields[at .. 'u'])  -- `save` leaves none that is later
  end
  bucket.is_other = interval ~= bucket.interval or burst ~= bucket.burst
  if verb == 'return' then  -- as it was charged: other limits have not been sent yet
    bucket.interval, bucket.burst = interval, burst
  elseif bucket.is_other then
    if interval > 0 then  -- other limits: what is owed is carried over, in calls
      local owed_until, from = bucket.anchor + bucket.used * interval, math.max(now, bucket.charged)
      TokenBucket.restart(bucket, from, math.max(0, (owed_until - from) / interval))
    end
    bucket.peaks, bucket.since = {}, ALWAYS
    TokenBucket.on_idle(bucket, now)
  end
end

-- Return what has been let through and still counts, {instant, amount} each, the oldest first: here
-- what is not recovered, as of now.
function TokenBucket.charges_of(read, at)
  local bucket = {interval = read(at .. 'i', 0, 0, HUGE)}
  load_figures(bucket, TokenBucket.KEPT, read, at)
  local owed = (TokenBucket.tat(bucket) - now) / bucket.interval
  return bucket.interval > 0 and owed > 0 and {{now, owed}} or {}
end

-- Count what another limit of this unit has let through, unless more is counted already. Where that
-- limit is `beside` this one, and not replaced by it, this one starts used up at worst.
function TokenBucket.take_over(bucket, charges, beside)
  local tat = ALWAYS
  for _, charge in ipairs(charges) do
    tat = math.max(tat, charge[1]) + charge[2] * bucket.interval
  end
  if beside then
    tat = math.min(tat, now + bucket.burst * bucket.interval)
  end
  if tat > TokenBucket.tat(bucket) then  -- in the past, too: it has been idle only since then
    TokenBucket.restart(bucket, tat, 0)
    bucket.peaks = {{math.max(now, bucket.charged), 0}}  -- of calls before, nothing comes back
  end
end

function TokenBucket.save(bucket, set, at)
  local anchor, tat = bucket.anchor, TokenBucket.tat(bucket)
  if anchor > ALWAYS and (tat > LATEST or bucket.used > LATEST or anchor < -LATEST) then
    TokenBucket.restart(bucket, math.min(LATEST, tat), 0)  -- a cost that nobody can ever pay
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

-- Its log is a list of "instant:cost:used", oldest first. What is in it ends `per` after the latest
-- moment at which the slot can have been used: so it holds for what really started, in any process.
-- A message may look at the same entries for each of hundreds of slots or changes: so none is read
-- twice, and what is charged is written at the end.
local SlidingWindow = {}

local function entry(window, text)
  if text then
    local key, name, at, cost, used = window.log, 'an entry', split(window.log, 'an entry', text)
    -- What it costs is 0 at least, but for what fractions have added up to.
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

-- Have the latest entry, which may yet cost more, stand where it was read in its place.
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
    for first = 1, #window.added, 1000 do  -- Lua takes some thousands of arguments at most
      redis.call('RPUSH', window.log, unpack(window.added, first, math.min(first + 999, #window.added)))
    end
    window.added = {}
  end
end

-- Return an entry by its number, of which the oldest has 0.
local function nth(window, number)
  local place = number % AT_ONCE
  local start = number - place
  local part = window.parts[start]
  if not part then
    write(window)
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

-- Pass over what has ended `at`, which may be an instant to come: an earlier one may be asked about
-- afterwards, perhaps by another process. What has ended by now is dropped for good.
function SlidingWindow.pass(window, at)
  if not window.passed_at then
    local oldest = entry_at(window, 0)
    while oldest and oldest.ends <= now do
      redis.call('LPOP', window.log)
      window.total = math.max(0, window.total - oldest.cost)
      oldest = entry_at(window, 0)
    end
    if not oldest then
      window.total = 0  -- drops what error fractions of cost have added up to
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
    window.gone = window.total  -- all of it
  end
end

function SlidingWindow.on_idle() end

local function rounding_of(window)  -- fractions such as 0.1 do not add up
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
    elseif window.total > sum then  -- by what was rounded, or by what is not ours: the log counts
      window.total = sum
      return SlidingWindow.next_at(window, at, cost)
    else
      return NEVER  -- the window is smaller than the cost
    end
  end
  return ready_at
end

function SlidingWindow.consume(window, _, cost, _, slot)
  local tail = tail_of(window)
  local used = slot + window.per + lateness
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

-- Return the entry of what started `at`, and its place, from the end; or only what is later, and by
-- how many entries it is at least. Entries are in the order of their instants, but for those that a
-- lane has made late, by `catch_up` at most: so it is found in a logarithm of steps, from the end.
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
    return  -- it is of others, who started at that instant too: other limits were in force
  elseif each then
    each.cost = each.cost + cost
    redis.call('LSET', window.log, -place, logged(window, each))
    window.total = window.total + cost
    return
  end
  -- Nothing was charged then: it was to use nothing of this unit. By now it has started.
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
  if cost + held > window.calls then
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
  window.total = read(at .. 'n', nil, -1, HUGE)  -- as of an entry's cost
  window.known_per = read(at .. 'w', window.per, 0, HUGE)
  window.is_other = window.known_per ~= window.per
  if verb ~= 'return' then  -- as of a bucket: other limits have not been sent yet
    window.known_per = window.per
  end
  if not window.total then
    redis.call('DEL', window.log)
    window.total = 0
  end
end

-- As of a bucket. The log of a limit that is gone is a key of this quota, but not one that this message
-- has declared. On a server that refuses such keys, all of the log counts as of now.
function SlidingWindow.charges_of(read, at, log)
  local total, charges, sum = read(at .. 'n', 0, -1, HUGE), {}, 0
  local texts = redis.pcall('LRANGE', log, -MOST_READ, -1)
  if texts.err then
    return total > 0 and {{now, total}} or {}
  end
  for index, text in ipairs(texts) do
    local each = entry({log = log, per = 0}, text)
    charges[index] = {each.at, each.cost}
    sum = sum + each.cost
  end
  if #texts == MOST_READ then
    charges[1][2] = charges[1][2] + math.max(0, total - sum)
  end
  return charges
end

-- Both logs may have the same calls. So since each instant, as much has started as the log says that
-- has more.
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
  while mine < theirs do  -- what is before those is as it was
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
