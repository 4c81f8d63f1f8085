-- What API servers report about their quotas (see _server_quotas/server_bound.py), and the calls in
-- flight of each process, which the API server may not have counted yet.
-- The fifth part of the script: gcra_adaptive.lua comes before it, gcra_budgets.lua after.
--
-- A response with "40 remaining" has counted some of the calls that were in flight when it was
-- received; which ones is unknown. So all of them are subtracted: the sender subtracts its own, and
-- the script those of all other processes. Each process reports its calls in flight with every
-- message, at least those of the whole quota. What it is leased afterwards is added here, so that
-- the figure includes every call that it may yet start.
--
-- - A message takes a while to arrive: the calls that were in flight when the response was received
--   count. If the figure of a process has fallen since, that is the figure before the fall.
-- - A process that had been silent for `lease` when the answered call was released has no call in
--   flight that the API server had not received by then: no call takes that long to get there. So
--   figures need no renewal, and those of a dead process are soon ignored.
-- - Calls in flight are counted by lane only once a process reports responses (`follows`), which
--   most never do. What was leased before may be of any lane: for it, the figure of the whole quota
--   is used.
-- - Until a lane has its first response, one of its calls is in flight at a time, if the process
--   that asks wants that (`first`).

local OUT = 60e6       -- the figures of a process are kept for this long after its last message
local TRAVEL = 2e6     -- a message that takes longer to arrive can only lower a bound
local MOST_BOUNDS = 8  -- quotas of one unit that are kept; each costs every request some work
local ROUNDING = 1e-9  -- share of what is left by which sums of costs may be off

local sender, permits = payload.sender, payload.permits
local names, places = payload.units or {'calls'}, {}  -- names of units by place, and the reverse
for place, name in ipairs(names) do
  places[name] = place
end

-- The bound by an API server's count, with the methods of a limit.

local ServerBound = {}
ServerBound.__index = ServerBound

local function fits(bound, cost)
  return cost <= bound.left + ROUNDING * math.abs(bound.left)
end

function ServerBound.on_idle() end

-- From `until_` on, the quota is full again, and this bounds nothing.
function ServerBound.next_at(bound, at, cost)
  return (at >= bound.until_ or fits(bound, cost)) and ALWAYS or bound.until_
end

function ServerBound.consume(bound, _, cost, _, slot)
  if slot < bound.until_ then
    bound.left = bound.left - cost
  end
  return NEVER
end

-- A lower cost is refunded only if the higher one has certainly been subtracted: not if the call
-- may have been answered, and so counted by the API server, before this bound was set.
function ServerBound.adjust(bound, at, cost)
  if at < bound.until_ and (cost > 0 or verb == 'return' or at > bound.set_at) then
    bound.left = bound.left - cost
  end
end

function ServerBound.leaves_room(bound, _, cost, held, by)
  return by >= bound.until_ or fits(bound, cost + held)
end

function ServerBound.idle_at(bound)
  return bound.until_
end

function ServerBound.room(bound)
  return math.max(0, bound.left)
end

-- One call at a time until the first response, with the methods of a limit. Its `next_at` is below,
-- as it needs the figures of the other processes.

local FirstAnswer = {}
FirstAnswer.__index = FirstAnswer

function FirstAnswer.on_idle() end

function FirstAnswer.consume()
  return NEVER
end

function FirstAnswer.adjust() end

function FirstAnswer.leaves_room()
  return true
end

function FirstAnswer.idle_at()
  return ALWAYS
end

function FirstAnswer.room()
  return 1
end

-- The calls in flight, by process: "instant fallen_at fell_at first unit=cost=before=most ...".
-- `cost` is the figure now, `before` the figure until it last fell (at `fallen_at`), and `most` the
-- highest one in the seconds up to the fall before that (at `fell_at`). `first` is the number of
-- calls in flight of a lane that waits for its first response.

local function read_in_flight(key, text)
  local at, fallen_at, fell_at, first, rest = string.match(text, '^(%S+) (%S+) (%S+) (%S+)(.*)$')
  if not rest then
    refuse(key, 'calls in flight', text)
  end
  local out = {costs = {}, before = {}, most = {}}
  out.at = figure(key, 'calls in flight', at, nil, 0, now + YEAR)
  out.fallen_at = figure(key, 'calls in flight', fallen_at, nil, 0, now + YEAR)
  out.fell_at = figure(key, 'calls in flight', fell_at, nil, 0, now + YEAR)
  out.first = figure(key, 'calls in flight', first, nil, 0)
  for part in string.gmatch(rest, '%S+') do
    local unit, cost, before, most = string.match(part, '^([^=]+)=([^=]+)=([^=]+)=([^=]+)$')
    if not most then
      refuse(key, 'calls in flight', part)
    end
    out.costs[unit] = figure(key, 'calls in flight', cost, nil, 0)
    out.before[unit] = figure(key, 'calls in flight', before, nil, 0)
    out.most[unit] = figure(key, 'calls in flight', most, nil, 0)
  end
  return out
end

-- Return the calls in flight of the other processes, and remove outdated figures. Each key is read
-- once in a run: counts of several quotas may need it.
local found_by_key = {}
local function other_processes(key)
  local found = found_by_key[key]
  if found then
    return found
  end
  found = {}
  found_by_key[key] = found
  for process, text in pairs((hash(key))) do
    local out = read_in_flight(key, text)
    if out.at < now - OUT then
      redis.call('HDEL', key, process)
    elseif process ~= sender then
      found[process] = out
    end
  end
  return found
end

-- Note the calls in flight of this process, including what this message was granted. Falls are
-- noted only if some process reports responses: in most quotas, none does, and nothing has to be
-- read.
local function note_in_flight(state, follows)
  local key, leased, parts = state.out_key, state.leased, {}
  local in_flight = state.in_flight or {}
  local text = follows and redis.call('HGET', key, sender)
  local old = text and read_in_flight(key, text)
  old = old or {costs = {}, before = {}, most = {}, fallen_at = 0, fell_at = 0}
  local fallen_at, fell_at, costs = old.fallen_at, old.fell_at, {}
  for place, unit in ipairs(names) do
    costs[unit] = math.min(LATEST, math.max(0, in_flight[place] or 0) + (leased[place] or 0))
    -- A rounding error must not count as a fall: it would replace the figures of a real one.
    if costs[unit] < (old.costs[unit] or 0) * (1 - ROUNDING) then
      fallen_at = now
    end
  end
  local again = old.fallen_at == now  -- it has fallen before at the same instant
  if fallen_at > old.fallen_at then
    fell_at = old.fallen_at
  end
  for unit, cost in pairs(costs) do
    local was, before, most = old.costs[unit] or 0, old.before[unit] or 0, old.most[unit] or 0
    if again then
      before = math.max(before, was)
    elseif fallen_at == now then
      most = old.fell_at > now - TRAVEL and math.max(most, before) or before
      before = was
    end
    if cost > 0 or before > 0 or most > 0 then
      parts[#parts + 1] = string.format(' %s=%.17g=%.17g=%.17g', unit, cost, before, most)
    end
  end
  local first = (state.first or 0) + state.granted
  text = string.format('%.0f %.0f %.0f %.0f', now, fallen_at, fell_at, first) .. table.concat(parts)
  if redis.call('HSET', key, sender, text) == 1 then  -- a new process: remove outdated ones now
    other_processes(key)
  end
  expire(key, now + OUT)
end

function FirstAnswer.next_at(gate)
  local state = gate.state
  if not gate.in_flight then
    gate.in_flight = state.first
    for _, its in pairs(other_processes(state.out_key)) do
      if its.at > now - payload.lease then  -- else the process may be dead, and its call gone
        gate.in_flight = gate.in_flight + its.first
      end
    end
  end
  return gate.in_flight + state.granted > 0 and NEVER or ALWAYS
end

local ANSWERS = {
  {'counted', 'counted', ALWAYS, nil, now + YEAR},  -- the slot of the latest call with a response
  {'received', 'received_at', ALWAYS, nil, now + YEAR},  -- when the latest response was received
  {'follows', 'follows', ALWAYS, nil, now + YEAR},  -- of the queue: since when lanes are counted
}

-- Load what a state has in addition to its limits: bounds, and the wait for a first response. Both
-- are added to its limits (`extra` is their number), so that a slot is charged to all of them
-- alike.
local function load_answers(state, read)
  state.bounds, state.extra = {}, 0
  state.counted, state.received_at, state.follows = ALWAYS, ALWAYS, ALWAYS
  if state.fields.follows or state.fields.received then  -- most states have neither
    load_figures(state, ANSWERS, read, '')
  end
  local function add(limit, kind)
    state.limits[#state.limits + 1] = setmetatable(limit, kind)
    state.extra = state.extra + 1
  end
  for part in string.gmatch(state.fields.bounds or '', '%S+') do
    local figures = {}
    for text in string.gmatch(part, '[^|]+') do
      figures[#figures + 1] = text
    end
    if #figures ~= 6 then
      refuse(state.key, 'bounds', part)
    end
    local unit, limit, left, until_, released_at, set_at = unpack(figures)
    local function read_one(text)
      return figure(state.key, 'bounds', text)
    end
    local bound = {kind = 's', name = unit, place = places[unit], limit = limit}
    bound.unit = unit ~= 'calls' and unit or nil
    bound.left, bound.until_ = read_one(left), read_one(until_)
    bound.released_at, bound.set_at = read_one(released_at), read_one(set_at)
    if bound.until_ > now then
      table.insert(state.bounds, bound)
      if bound.place then  -- else this process does not know the unit, so its calls do not use it
        add(bound, ServerBound)
      end
    end
  end
  if state.first and state.received_at == ALWAYS then
    add({kind = 'f', place = 1, state = state}, FirstAnswer)
  end
end

local function save_answers(state, set)
  if state.follows == ALWAYS and state.received_at == ALWAYS then
    return
  end
  save_figures(state, ANSWERS, set, '')
  local parts = {}
  for _, bound in ipairs(state.bounds) do
    local left = math.max(-LATEST, math.min(LATEST, bound.left))
    local until_ = math.min(LATEST, bound.until_)
    local format, at, set_at = '%s|%s|%.17g|%.0f|%.0f|%.0f', bound.released_at, bound.set_at
    parts[#parts + 1] = string.format(format, bound.name, bound.limit, left, until_, at, set_at)
  end
  set('bounds', table.concat(parts, ' '))
end

local function note_answer(state)
  state.received_at = now
end

-- Apply an API server's count of what is left of a quota.
local function sync(queue, state, count)
  local unit, limit = names[count.place], count.limit and string.format('%.17g', count.limit) or '-'
  local received_at = math.min(now, count.received_at or 0)
  local released_at = math.min(now + YEAR, count.released_at or now)
  local until_ = up(now + math.max(0, count.reset))

  local function subtracted(out)
    local before = received_at < out.fallen_at and out.before[unit] or 0
    local most = received_at < out.fell_at and out.most[unit] or 0
    return math.max(out.costs[unit] or 0, before, most)
  end
  local silent_since = released_at - math.min(payload.lease, YEAR) - ahead
  local left, known = count.left, other_processes(state.out_key)
  -- Whether the figure of a process in this lane is complete: it may have been leased slots of the
  -- lane before lanes were counted.
  local function is_known(process)
    return known[process] and (state == queue or known[process].at >= queue.follows)
  end
  for process, out in pairs(known) do
    if is_known(process) and out.at > silent_since then
      left = left - subtracted(out)
    end
  end
  if state ~= queue and queue.follows > silent_since then
    for process, out in pairs(other_processes(queue.out_key)) do
      if not is_known(process) and out.at > silent_since then
        left = left - subtracted(out)
      end
    end
  end

  local bound, many, first_over = nil, 0, nil
  for place, one in ipairs(state.bounds) do
    if one.name == unit then
      many = many + 1
      if one.limit == limit then
        bound = one
      end
      if not first_over or one.until_ < state.bounds[first_over].until_ then
        first_over = place
      end
    end
  end
  for _, each in ipairs({state, queue}) do
    note_answer(each)
    each.counted = math.max(each.counted, released_at)
  end
  if bound and released_at < bound.released_at then
    return  -- an older count than the one that is known
  elseif bound and (released_at == bound.released_at or received_at < now - TRAVEL) then
    -- Two counts of one call, or one that took too long to arrive: the stricter one is safe.
    left = math.min(left, bound.left)
  end
  if not bound then
    if many >= MOST_BOUNDS then  -- the one that will be full first matters least
      table.remove(state.bounds, first_over)
    end
    bound = {name = unit, place = count.place, limit = limit}
    table.insert(state.bounds, bound)
  end
  bound.left, bound.until_, bound.released_at, bound.set_at = left, until_, released_at, now
end
