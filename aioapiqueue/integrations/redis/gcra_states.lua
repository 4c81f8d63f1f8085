-- The state of the queue, and of each lane: its limits, the share of one process, the round
-- positions of the processes that wait, and reservations.
-- The seventh part of the script: gcra_budgets.lua comes before it, gcra_refusals.lua after.

local KEEP = 2e6          -- how long a key is kept after its state has become that of a new one
local PAUSED = 86400e6    -- how long an endless pause is remembered without a caller
local SET = 3600e6        -- how long other decisions of users are remembered without a caller
local RECENT = 1.5e6      -- a process that has asked since counts as waiting: it asks every second
local WANTING = 300e3     -- three times the 100 ms between requests for permits: two may be lost
local HELD = 100e3        -- how long a reservation is kept after its instant
local SOON = 1e3          -- the least time until a request about what time alone does not change
local RECHECK = 10e3      -- by then, a reservation that is late may have been used
local PATIENCE = 20e3     -- a request that arrives within this time after its turn is not late

-- The state of the queue's limits, or of a lane's.

local KINDS = {
  r = TokenBucket, p = RampedBucket, w = SlidingWindow, b = Budget, g = AdaptiveRate,
}
local KEPT = {
  {'held', 'held_until', ALWAYS},         -- the end of a hold
  {'last', 'last', ALWAYS, nil, now + YEAR},  -- the latest slot
  {'turn', 'last_position', ALWAYS},      -- the latest round position that was given out
  {'fixed', 'mended_until', ALWAYS},      -- positions up to this one are known to be early
}

local RESERVED = {
  {'for_at', 'at', ALWAYS, nil, now + YEAR},             -- when all lanes of the line have room
  {'for_until', 'lapses', ALWAYS, nil, now + 2 * YEAR},  -- when it is void
  {'for_priority', 'priority', 0},  -- the rank of its call among the calls of its process
  {'for_place', 'place', 0},
}

-- Return the charges of a limit that still count, by the name of its state; also its unit.
local function charges_of(state, read, name)
  local kind, unit, number = string.match(name, '^([bprw])%[([%l%d_]+)%](%d+):$')
  if not kind then
    kind, number = string.match(name, '^([bprw])(%d+):$')
  end
  if not kind then
    refuse(state.key, 'kinds', state.fields.kinds)
  end
  local place = (unit and unit .. ':' or '') .. string.format('%d', number - 1)
  return KINDS[kind].charges_of(read, name, state.key .. ':window:' .. place), unit
end

-- A message may have other limits than the one before it (after `set_rate`, or from a process that
-- was started with others). Limits of a new kind then take over the charges of the others: all
-- charges of a limit that was removed; of one that stays, no more than use up the new one. (So also
-- of a budget, which does not know when its calls started.) The state of a removed limit is kept,
-- because that limit may come back.
local function note_kinds(state, read)
  local names, is_here, is_other, was_here, changed = {}, {}, {}, {}, false
  for _, limit in ipairs(state.limits) do
    if limit.kind ~= 'g' then
      names[#names + 1], is_here[limit.name] = limit.name, true
      is_other[limit.name] = limit.is_other
      changed = changed or limit.is_other
    end
  end
  local before = state.fields.kinds
  state.kinds = table.concat(names, ' ')
  if not before or before == state.kinds and not changed then
    return
  elseif verb == 'return' then  -- slots are returned by the old limits: see TokenBucket.load
    state.kinds = before
    return
  end
  for name in string.gmatch(before, '%S+') do
    was_here[name] = true
  end
  local takers = {}
  for name in pairs(was_here) do
    local charges, unit = nil, nil
    for _, limit in ipairs(state.limits) do
      local is_new = is_here[limit.name] and not was_here[limit.name]
      local moved = not is_here[name] or is_other[name]
      if limit.name ~= name and (is_new or is_other[limit.name] and moved) then
        if not charges then
          charges, unit = charges_of(state, read, name)
        end
        if limit.unit == unit then
          local is_budget = string.sub(name, 1, 1) == 'b'
          takers[#takers + 1] = {limit, charges, is_budget or is_here[name] or not is_new}
        end
      end
    end
  end
  -- Only now: a limit may take over the charges of another one that changes as well.
  for _, taker in ipairs(takers) do
    taker[1]:take_over(taker[2], taker[3])
  end
end

-- Name the limits of one kind and unit if there are, or were, several. The state of each is stored
-- under its name. `set_rate`, or another process, may have the limits in another order, or fewer of
-- them. So each limit first takes the name of a state with the same figures. The others take the
-- names that are left, in the order of the limits that last had them.
local function match_names(limits, kind, fields, read)
  local is_taken, logs, order, left, others = {}, {}, fields.kinds or '', {}, {}
  for _, limit in ipairs(limits) do
    logs[limit.name] = limit.log
    order = order .. ' ' .. limit.name
  end
  for name in string.gmatch(order, '%S+') do
    -- A log can be used only if the message has declared its key.
    local can_be_read = limits[1].kind ~= 'w' or logs[name]
    if string.match(name, '^(.-)%d+:$') == kind and can_be_read and not is_taken[name] then
      is_taken[name], left[#left + 1] = true, name
    end
  end
  local function take(limit, place)
    limit.name = table.remove(left, place)
    limit.log = logs[limit.name]
  end
  for _, limit in ipairs(limits) do
    local place = 1
    while left[place] and not limit:counts_like(read, left[place]) do
      place = place + 1
    end
    if left[place] then
      take(limit, place)
    else
      others[#others + 1] = limit
    end
  end
  for _, limit in ipairs(others) do
    take(limit, 1)
  end
end

-- Return the state of the queue or of a lane, as `spec` of the payload describes it. It reads one
-- hash, and logs of windows only if limits have changed.
local function load(spec)
  local state = {key = KEYS[spec.key], limits = spec.limits, position = spec.round_position or 0}
  local fields, read, figures = hash(state.key)
  local alike = {}
  state.figures = figures
  state.fields, state.intervals, state.closed = fields, {}, {}
  state.out_key, state.in_flight, state.leased = KEYS[spec.out_key], spec.in_flight, {}
  state.first, state.granted = spec.first, 0
  for _, limit in ipairs(spec.limits) do
    -- The name of its state: by kind, unit and number, so that changed limits go on with the state
    -- of one of their kind and unit. Not by the unit's place, which differs from process to
    -- process.
    local kind = limit.kind .. (limit.unit and '[' .. limit.unit .. ']' or '')
    local same = alike[kind] or {}
    alike[kind], same[#same + 1] = same, limit
    limit.name, limit.place = kind .. #same .. ':', limit.place or CALLS
    setmetatable(limit, {__index = KINDS[limit.kind]})
  end
  for kind, same in pairs(alike) do
    if #same > 1 or fields[kind .. '2:i'] or fields[kind .. '2:s'] then
      match_names(same, kind, fields, read)
    end
  end
  for _, limit in ipairs(spec.limits) do
    limit:load(read, limit.name, state.key, fields)
    local interval = limit.soonest or limit.interval or 0
    local slowest = math.max(state.intervals[limit.place] or 0, interval)
    state.intervals[limit.place] = slowest
  end
  load_figures(state, KEPT, read, '')
  note_kinds(state, read)
  load_answers(state, read)
  if spec.reserved then
    load_reservations(state, spec)
  end
  if fields['for'] then
    local by_unit, costs = {}, {}  -- by name: a unit's place differs from process to process
    for part in string.gmatch(fields.for_costs or '', '%S+') do
      local unit, cost = string.match(part, '^([^:]*):(.*)$')
      cost = figure(state.key, 'for_costs', cost or part, nil, 0, HUGE)
      if not unit then
        refuse(state.key, 'for_costs', part)
      end
      by_unit[unit] = cost
    end
    for _, limit in ipairs(spec.limits) do
      costs[limit.place] = by_unit[limit.unit or '']
    end
    state.reserved = {line = fields['for'], costs = costs}
    load_figures(state.reserved, RESERVED, read, '')
  end
  state.paused_until = fields.paused == 'inf' and NEVER or read('paused', ALWAYS)
  state.lasts = fields.lasts ~= nil
  return state
end

-- Return the latest instant that a method of its limits returns, or `when` if that is later.
local function latest_of(state, when, method, ...)
  for _, limit in ipairs(state.limits) do
    when = math.max(when, limit[method](limit, ...))
  end
  return when
end

local function blocked_until(state)
  return math.max(state.held_until, state.paused_until)
end

-- Return what a call of some costs uses of a limit; 0: the limit does not apply to it.
local function cost_at(limit, costs)
  return costs[limit.place] or 0
end

-- Return when a state has room for costs that start at `from` or later; whether any of its limits
-- applies to them; and the place of the limit that has room last, if that is not at once. If a
-- limit applies, instants never decrease.
local function gate_of(state, from, costs)
  local when, latest, concerned, place = blocked_until(state), from, false, nil
  local at = math.max(from, state.last)
  for _, limit in ipairs(state.limits) do
    local cost = cost_at(limit, costs)
    if cost ~= 0 then
      local ready_at = limit:next_at(at, cost)
      if ready_at > latest then
        latest, place = ready_at, limit.place
      end
      when, concerned = math.max(when, ready_at), true
    end
  end
  return concerned and math.max(when, state.last) or when, concerned, place
end

-- A waiting call closes limits for the calls behind it: the limits of the unit that it waits for;
-- or all that it uses, if they have room and it is another process's turn. A call that uses none of
-- these may still start, and so may a call before it, because requests are looked at again. `by` is
-- the number of its request.
local function close(state, costs, place, by)
  for _, limit in ipairs(state.limits) do
    if cost_at(limit, costs) ~= 0 and (not place or limit.place == place) then
      state.closed[limit.place] = math.min(state.closed[limit.place] or by, by)
    end
  end
end

local function is_closed_for(state, costs, number)
  for place, by in pairs(state.closed) do
    if by <= number and (costs[place] or 0) ~= 0 then
      return true
    end
  end
  return false
end

-- Write the changed fields of a state back; return when it may expire. One in which a budget was
-- ever charged never does.
local function save(state, extra)
  local flat, absent, fields, figures = {}, {}, state.fields, state.figures
  local function set(name, value, most)
    local text = fields[name]
    if value == figures[name] or value == text then
      return  -- most are as they were, and then the time to expire is, too
    elseif value == ALWAYS or value == NEVER or value == '' then
      if text then
        absent[#absent + 1] = name
      end
      return
    elseif type(value) == 'number' then  -- within the bounds that `read` accepts
      value = string.format('%.17g', math.max(-LATEST, math.min(most or LATEST, value)))
    end
    flat[#flat + 1] = name
    flat[#flat + 1] = value
  end
  for index = 1, #state.limits - state.extra do
    local limit = state.limits[index]
    limit:save(set, limit.name)
    state.lasts = state.lasts or limit.kind == 'b' and limit.spent > 0
  end
  save_figures(state, KEPT, set, '')
  set('kinds', state.kinds)
  save_answers(state, set)
  set('paused', state.paused_until == NEVER and 'inf' or state.paused_until)
  if state.reserved or fields['for'] then
    local reserved = state.reserved or {line = '', costs = {}}
    set('for', reserved.line)
    local costs = {}
    for _, limit in ipairs(state.limits) do
      local cost = cost_at(limit, reserved.costs)
      if cost ~= 0 then
        costs[#costs + 1] = string.format('%s:%.17g', limit.unit or '', cost)
      end
    end
    set('for_costs', table.concat(costs, ' '))
    for _, each in ipairs(RESERVED) do
      set(each[1], reserved[each[2]] or ALWAYS, each[5])
    end
  end
  for name, value in pairs(extra or {}) do
    set(name, value)
  end
  if state.lasts then
    set('lasts', 'yes')
  end
  if #flat > 0 then
    redis.call('HSET', state.key, unpack(flat))
  end
  if #absent > 0 then
    redis.call('HDEL', state.key, unpack(absent))
  end
  if #flat + #absent == 0 then
    return state.lasts and NEVER or now
  end
  local idle_at = math.max(blocked_until(state), state.last_position, now)
  idle_at = latest_of(state, idle_at, 'idle_at')
  for _, bound in ipairs(state.bounds) do  -- one that was just set is not among the limits yet
    idle_at = math.max(idle_at, bound.until_)
  end
  idle_at = idle_at == NEVER and now + PAUSED or idle_at + KEEP
  if not state.lasts then
    expire(state.key, idle_at)
  elseif not fields.lasts then
    redis.call('PERSIST', state.key)
  end
  for _, limit in ipairs(state.limits) do
    if limit.kind == 'w' then
      expire(limit.log, idle_at)
    end
  end
  return state.lasts and NEVER or idle_at
end

local function on_idle(state, at)
  for _, limit in ipairs(state.limits) do
    limit:on_idle(at)
  end
end

-- Charge a call that is due `at` and will start at `slot`; return until when it may start, so that
-- it is no later than `catch_up` in all.
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
  state.granted = state.granted + 1
  for place, cost in ipairs(costs) do
    state.leased[place] = (state.leased[place] or 0) + cost
  end
  return latest
end

local function adjust(state, at, costs, charged, started, late)
  for _, limit in ipairs(state.limits) do
    local cost = cost_at(limit, costs)
    if cost ~= 0 then
      limit:adjust(at, cost, cost_at(limit, charged), cost_at(limit, started), late)
    end
  end
  -- The latest slot is returned: the next one may be as early again.
  if verb == 'return' and at == state.last then
    state.last = at - 1
    local limit = state.limits[1]
    if #state.limits - state.extra == 1 and limit.kind == 'r' and limit.burst == 1 then
      state.last = math.min(state.last, limit.charged)  -- the slot before it
    end
  end
end

local processes = 1  -- number of processes that count as waiting

-- Note the share of this process, by place: its part of the room, but at least one call. `highest`
-- is the highest cost among the requests, by place.
local function find_shares(state, highest)
  local shares, left = {}, {}
  for _, limit in ipairs(state.limits) do
    local share = math.max(highest[limit.place] or 1, math.floor(limit:room() / processes))
    shares[limit.place] = math.min(share, shares[limit.place] or NEVER)
    left[limit.place] = shares[limit.place]
  end
  state.shares, state.left = shares, left
end

-- Return whether the rest of its share is too small for these costs. A cost above `most`, by place,
-- counts as `most`: no share would ever be enough for it.
local function is_short(state, costs, most)
  for place, left in pairs(state.left) do
    local cost = costs[place] or 0
    if cost > 0 and left < math.min(cost, most and most[place] or 1) then
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

-- Return how long it takes until amounts, by place, have recovered in all limits.
local function time_of(state, amount_at)
  local time = 0
  for place, interval in pairs(state.intervals) do
    if interval > 0 then
      time = math.max(time, amount_at(place, interval) * interval)
    end
  end
  return time
end

-- Return the number of slots in its share: by calls, or by another unit if its share of that is for
-- fewer slots, even of the lowest cost (`lowest`).
local function number_of(state, lowest)
  local number = state.shares[CALLS] or NEVER
  for place, share in pairs(state.shares) do
    if place ~= CALLS and lowest[place] then
      number = math.min(number, math.max(1, math.ceil(share / lowest[place])))
    end
  end
  return number
end

-- Return the amount that `number` slots use of its share in one unit, at most. One limit may have
-- room for a hundred times as many slots as another; no process should wait until all that has
-- recovered.
local function used_by(state, place, number, highest, most_calls)
  local cost = place == CALLS and most_calls or highest[place] or 1
  return math.min(state.shares[place], number * cost)
end

-- Round positions are instants by which the processes that wait for a limit take turns. `at` is the
-- instant of this request or, in a lane, of the latest slot that it could use. `gate` is the first
-- free slot. A process that is `served` by this request goes to the end of the round, and one whose
-- turn it is goes first.

local function is_its_turn(state, at)
  return state.position > 0 and state.position <= at
end

-- A slot that has been free for `grace` goes to the first process that asks: the one whose turn it
-- was has not come.
local function may_take(state, gate, at, served, grace)
  return gate <= at and (served or is_its_turn(state, at) or state.last_position <= at
    or gate < at - grace or processes == 1)
end

local function next_position(state, gate, at, step, served)
  if gate == NEVER then
    return at + 1e6  -- no slot at all, under a pause for example: ask again in a second
  end
  local last = gate + (processes - 1) * step  -- the latest position, if each process has one
  if served or not is_its_turn(state, at) then
    if not served and state.position > at then
      return math.min(state.position, last)
    end
    state.last_position = math.min(math.max(gate, state.last_position + step), last)
    -- Its next turn depends on what it has had, not on when it came: one that was late, or had a
    -- small share, is not put back by a whole round.
    if served and is_its_turn(state, at) then
      local round = processes * time_of(state, function(place)
        return state.shares[place] - state.left[place]
      end)
      return math.max(gate, math.min(state.last_position, state.position + round))
    end
    return state.last_position
  elseif state.position > state.mended_until then
    -- It is its turn, and the slot is later than its position: a slot was lost, so all positions
    -- are too early. They are moved once, by this first process that finds that.
    state.mended_until = math.max(state.last_position, state.position)
    state.last_position = math.min(state.mended_until + gate - state.position, last)
  end
  return gate
end

-- Reservations. A call of several lanes would never start if other calls used up one lane whenever
-- another has room. So a line that had its turn at the lane where it waited, and found another lane
-- closed, reserves all its lanes until the instant at which all have room. Other calls may take
-- only slots that leave room for it then; except calls before it in its own process, or both would
-- wait for each other. A reservation whose process does not come lapses.

-- Return the name of a line of this process: the same in each of its messages.
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

-- Return whether a reservation is for a call of this process that ranks behind this one.
local function is_for_later_rank(reserved, rank)
  if string.sub(reserved.line, 1, #sender + 1) ~= sender .. ' ' then
    return false
  elseif reserved.priority ~= rank[1] then
    return reserved.priority > rank[1]
  end
  return reserved.place > rank[2]
end

-- Return whether a slot for this line would delay another line that has reserved the lane, and that
-- does not rank behind it in the same process.
local function is_kept_from(lane, line, slot, costs, rank)
  local reserved = lane.reserved
  if not reserved or reserved.lapses < now or is_reserved_by(lane, line)
    or is_for_later_rank(reserved, rank) then
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

-- Reserve the lanes of a line that has to wait for one of them; return whether they were not yet
-- reserved for it.
local function reserve(line, whens, had_turn, waits_at, costs, rank)
  local at = ALWAYS
  for number in ipairs(line) do
    at = math.max(at, whens[number])
  end
  -- Not over a reservation for an earlier instant. One for a later instant is replaced: its line
  -- reserves again after this one.
  for _, lane in ipairs(line) do
    local reserved = lane.reserved
    if reserved and reserved.lapses >= now and reserved.at <= at
      and not (is_reserved_by(lane, line) or is_for_later_rank(reserved, rank)) then
      return false
    end
  end
  local again = is_reserved_by(line[waits_at], line)
  if #line < 2 or at > now + YEAR or not (again or had_turn) then
    return false
  end
  for _, lane in ipairs(line) do
    lane.reserved = {
      line = name_of(line), costs = costs, at = at, lapses = at + HELD + 2 * payload.jitter,
      priority = rank[1], place = rank[2],
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
