-- The state of the queue, and of each lane: its limits together, what one process may have at once,
-- whose turn it is, and who has reserved a lane.
-- The fifth part of a script: gcra_answers.lua comes before it, gcra_decisions.lua
-- after.

local KEEP = 2e6          -- an idle key lives so much longer than it can be told from a new one
local PAUSED = 86400e6    -- what is paused without end is remembered for a day without a caller
local SET = 3600e6        -- so is for an hour all that users have decided
local RECENT = 1.5e6      -- who has asked since is taken to be waiting: everybody asks every second
local WANTING = 300e3     -- who wants permits asks every 100 ms, so that two requests may be lost
local HELD = 100e3        -- a reservation is kept for so long after its instant
local SOON = 1e3          -- nobody asks again earlier about what time alone does not change
local RECHECK = 10e3      -- until then, one that is late may have come, and have taken its slot
local PATIENCE = 20e3     -- a request that is on its way for so long is not late yet

-- The state of the queue's limits, or of a lane's.

local CALLS = 1           -- the place of calls in costs; each limit counts the unit of its place
local KINDS = {r = TokenBucket, w = SlidingWindow, g = AdaptiveRate}
local KEPT = {
  {'held', 'held_until', ALWAYS},         -- by the other side's push-back
  {'last', 'last', ALWAYS, nil, now + YEAR},
  {'turn', 'last_position', ALWAYS},      -- the latest round position that was given out
  {'fixed', 'mended_until', ALWAYS},      -- positions up to this one are known to be early
}

local RESERVED = {
  {'for_at', 'at', ALWAYS, nil, now + YEAR},
  {'for_until', 'lapses', ALWAYS, nil, now + 2 * YEAR},
  {'for_priority', 'priority', 0},        -- its rank: among the calls of its process
  {'for_place', 'place', 0},
}

-- Return what a limit has let through, by its name, as far as it still counts.
local function charges_of(state, read, name)
  local kind, unit, number = string.match(name, '^([rw])%[([%l%d_]+)%](%d+):$')
  if not kind then
    kind, number = string.match(name, '^([rw])(%d+):$')
  end
  if not kind then
    refuse(state.key, 'kinds', state.fields.kinds)
  end
  local place = (unit and unit .. ':' or '') .. string.format('%d', number - 1)
  return KINDS[kind].charges_of(read, name, state.key .. ':window:' .. place), unit
end

-- If a message comes under other limits than the one before it (by `set_rate`, or in a process that was
-- started with others), those of another kind start with what the others have let through: all of what
-- a limit that is gone has; of one that stays, no more than uses them up. The state of a limit that is
-- gone stays, as that limit may come back.
local function note_kinds(state, read)
  local names, is_here, is_other, was_here, changed = {}, {}, {}, {}, false
  for _, limit in ipairs(state.limits) do
    if limit.kind ~= 'g' then
      names[#names + 1], is_here[limit.name], is_other[limit.name] = limit.name, true, limit.is_other
      changed = changed or limit.is_other
    end
  end
  local before = state.fields.kinds
  state.kinds = table.concat(names, ' ')
  if not before or before == state.kinds and not changed then
    return
  elseif verb == 'return' then  -- other limits have not been sent yet
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
          takers[#takers + 1] = {limit, charges, is_here[name] or not is_new}
        end
      end
    end
  end
  for _, taker in ipairs(takers) do  -- now that all has been read
    taker[1]:take_over(taker[2], taker[3])
  end
end

-- Name limits of one kind and unit, of which there are, or were, several; the server keeps the state
-- of each under its name. Each takes the name of a state that counts alike, because `set_rate`, or
-- another process, may have the limits in another order, or fewer of them. The others take the names
-- that are left, in the order of the limits that had them last.
local function match_names(limits, kind, fields, read)
  local is_taken, logs, order, left, others = {}, {}, fields.kinds or '', {}, {}
  for _, limit in ipairs(limits) do
    logs[limit.name] = limit.log
    order = order .. ' ' .. limit.name
  end
  for name in string.gmatch(order, '%S+') do
    local can_be_read = limits[1].kind ~= 'w' or logs[name]  -- the message names the keys of logs
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

local function load(spec)
  local state = {key = KEYS[spec.key], limits = spec.limits, position = spec.round_position or 0}
  local fields, read, figures = hash(state.key)
  local alike = {}
  state.figures = figures
  state.fields, state.intervals, state.closed = fields, {}, {}
  state.out_key, state.out, state.leased = KEYS[spec.out_key], spec.out, {}
  state.first, state.granted = spec.first, 0
  for _, limit in ipairs(spec.limits) do
    -- By kind, unit and number: other limits take over from those of their kind and unit. (Not by
    -- the unit's place, which may be another one in each process.)
    local kind = limit.kind .. (limit.unit and '[' .. limit.unit .. ']' or '')
    local same = alike[kind] or {}
    alike[kind], same[#same + 1] = same, limit
    limit.name, limit.place = kind .. #same .. ':', limit.place or CALLS
    setmetatable(limit, {__index = KINDS[limit.kind]})
  end
  for kind, same in pairs(alike) do
    if #same > 1 or fields[kind .. '2:i'] then
      match_names(same, kind, fields, read)
    end
  end
  for _, limit in ipairs(spec.limits) do
    limit:load(read, limit.name, state.key, fields)
    local slowest = math.max(state.intervals[limit.place] or 0, limit.interval or 0)
    state.intervals[limit.place] = slowest
  end
  load_figures(state, KEPT, read, '')
  note_kinds(state, read)
  load_answers(state, read)
  if fields['for'] then
    local by_unit, costs = {}, {}  -- a unit's place may be another one in each process
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

-- What a call of some costs uses of a limit. Where it uses nothing of its unit, the limit does not
-- concern it.
local function cost_at(limit, costs)
  return costs[limit.place] or 0
end

-- Return when a state has room for costs that start at `from` or later, whether any limit of it is
-- concerned at all, and the place of that which has room last, if not at once. Instants never
-- decrease, where one is concerned.
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

-- A call that waits closes the limits for which it does for those behind it: those of one place; or
-- all that it uses, where they have room and it is another's turn. One that uses none of them may
-- go, and so may one before it, as requests are looked at again: each has its number, `by`.
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

-- Write a state back; return when it may be forgotten.
local function save(state, extra)
  local flat, absent, fields, figures = {}, {}, state.fields, state.figures
  local function set(name, value, most)
    local text = fields[name]
    if value == figures[name] or value == text then
      return  -- most are as they were, and so is when they may be forgotten
    elseif value == ALWAYS or value == NEVER or value == '' then
      if text then
        absent[#absent + 1] = name
      end
      return
    elseif type(value) == 'number' then  -- no more than is read again
      value = string.format('%.17g', math.max(-LATEST, math.min(most or LATEST, value)))
    end
    flat[#flat + 1] = name
    flat[#flat + 1] = value
  end
  for index = 1, #state.limits - state.extra do
    state.limits[index]:save(set, state.limits[index].name)
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
  if #flat > 0 then
    redis.call('HSET', state.key, unpack(flat))
  end
  if #absent > 0 then
    redis.call('HDEL', state.key, unpack(absent))
  end
  if #flat + #absent == 0 then
    return now
  end
  local idle_at = math.max(blocked_until(state), state.last_position, now)
  idle_at = latest_of(state, idle_at, 'idle_at')
  for _, bound in ipairs(state.bounds) do  -- also one that was set just now
    idle_at = math.max(idle_at, bound.until_)
  end
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
  if verb == 'return' and at == state.last then
    state.last = at - 1
    local limit = state.limits[1]
    if #state.limits - state.extra == 1 and limit.kind == 'r' and limit.burst == 1 then
      state.last = math.min(state.last, limit.charged)  -- that before it
    end
  end
end

local processes = 1  -- how many are taken to be waiting

-- Note what this one may have at once, by place: its share of what there is, but at least one call.
-- (`dearest`: what the dearest that is asked for costs.)
local function find_shares(state, dearest)
  local shares, left = {}, {}
  for _, limit in ipairs(state.limits) do
    local share = math.max(dearest[limit.place] or 1, math.floor(limit:room() / processes))
    shares[limit.place] = math.min(share, shares[limit.place] or NEVER)
    left[limit.place] = shares[limit.place]
  end
  state.shares, state.left = shares, left
end

-- Return whether what is left of its share is too little for these costs; those above `most` by
-- place are as good as that, as they would have to wait for ever.
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

-- Return how long it takes to pay off amounts by place: the longest of the limits.
local function time_of(state, amount_at)
  local time = 0
  for place, interval in pairs(state.intervals) do
    if interval > 0 then
      time = math.max(time, amount_at(place, interval) * interval)
    end
  end
  return time
end

-- Return how many slots the share is for: of calls, or of what the cheapest of them needs most of.
local function number_of(state, cheapest)
  local number = state.shares[CALLS] or NEVER
  for place, share in pairs(state.shares) do
    if place ~= CALLS and cheapest[place] then
      number = math.min(number, math.max(1, math.ceil(share / cheapest[place])))
    end
  end
  return number
end

-- Return what so many slots use of its share in one unit, at most: one limit may have room for a
-- hundred times as many as another, and nobody is to wait until that is paid off.
local function used_by(state, place, number, dearest, most_calls)
  local cost = place == CALLS and most_calls or dearest[place] or 1
  return math.min(state.shares[place], number * cost)
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
      local round = processes * time_of(state, function(place)
        return state.shares[place] - state.left[place]
      end)
      return math.max(gate, math.min(state.last_position, state.position + round))
    end
    return state.last_position
  elseif state.position > state.mended_until then  -- a slot was lost, the line is early: mend it
    state.mended_until = math.max(state.last_position, state.position)
    state.last_position = math.min(state.mended_until + gate - state.position, last)
  end
  return gate
end

-- Reservations. A call under several lanes would never start if others used up one of them whenever
-- another has room. So a line that had its turn at the lane where it stood, and found another one
-- closed, reserves all of them until the instant at which all have room; its turn there is that
-- instant. Others may take only what leaves room for it then, but for those before it in its process,
-- which would wait for it as it does for them. One that does not come loses it.

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

-- Return whether what has reserved a lane is a call of this process that ranks behind this one.
local function is_for_later_rank(reserved, rank)
  if string.sub(reserved.line, 1, #sender + 1) ~= sender .. ' ' then
    return false
  elseif reserved.priority ~= rank[1] then
    return reserved.priority > rank[1]
  end
  return reserved.place > rank[2]
end

-- Return whether a slot of this line would delay another line that has reserved the lane, and does
-- not rank behind it in the same process.
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

-- Reserve the lanes of a line which has to wait for one of them; return whether that was done.
local function reserve(line, whens, had_turn, stands, costs, rank)
  local at = ALWAYS
  for number in ipairs(line) do
    at = math.max(at, whens[number])
  end
  for _, lane in ipairs(line) do  -- one that is for later is made again when this one is over
    local reserved = lane.reserved
    if reserved and reserved.lapses >= now and reserved.at <= at
      and not (is_reserved_by(lane, line) or is_for_later_rank(reserved, rank)) then
      return false
    end
  end
  local again = is_reserved_by(line[stands], line)
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
