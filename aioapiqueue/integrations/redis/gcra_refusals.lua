-- Refuses the calls for which a budget, or a limit with `or raise`, has no room: they raise
-- `LimitExceeded` instead of waiting. As in _limits/raising.py.
-- The eighth part of the script: gcra_states.lua comes before it, gcra_decisions.lua after.

-- Return the largest cost for which a limit ever has room at once.
local function whole_of(limit)
  return limit.kind == 'b' and limit.amount or limit.kind == 'w' and limit.calls or limit.burst
end

-- Return how much a limit has left now.
local function left_of(limit)
  if limit.kind == 'b' then
    return limit:left()
  elseif limit.kind == 'w' then
    return math.max(0, limit:room())
  end
  local used = (limit:tat() - now) / limit.interval
  return math.min(limit.burst, math.max(0, limit.burst - used))
end

-- Return whether there is room for a cost; below 0: other calls give back more.
local function could_fit(limit, at, cost)
  if limit.kind == 'w' then
    return limit.total - limit.gone + cost <= limit.calls + rounding(limit.calls)
  end
  return limit:next_at(at, cost) <= at
end

local function lacks_room(queue, state, limit, cost, at)
  if cost > whole_of(limit) + rounding(whole_of(limit)) then
    return true
  end
  -- During a hold, what there will be room for at its end is not known.
  if math.max(blocked_until(queue), blocked_until(state)) > at or limit:next_at(at, cost) <= at then
    return false
  end
  -- Of calls, a reservation makes no room: their number is known.
  return limit.place == CALLS
    or not could_fit(limit, at, cost - reserved_in(state, limit.place, queue.out_key))
end

-- Return whether a call of these costs comes under a limit that raises.
local function can_raise(states, costs)
  for _, state in ipairs(states) do
    for _, limit in ipairs(state.limits) do
      if limit.raises and cost_at(limit, costs) ~= 0 then
        return true
      end
    end
  end
  return false
end

-- Return the state and the number of the limit at which a call has to raise; nil: it may wait.
-- `is_first`: whether it is the first of its line. The others raise only if no limit is enough.
local function find_refusal(queue, line, costs, at, is_first)
  local states = {queue, unpack(line or {})}
  for _, state in ipairs(states) do
    for number, limit in ipairs(state.limits) do
      local cost = cost_at(limit, costs)
      if limit.raises and cost ~= 0 then
        local is_too_much = cost > whole_of(limit) + rounding(whole_of(limit))
        if is_too_much or is_first and lacks_room(queue, state, limit, cost, at) then
          local due = is_too_much and NEVER or limit:next_at(at, cost)
          return state, number, left_of(limit), math.max(0, (due - now) / 1e6)
        end
      end
    end
  end
end

-- Return the requests to refuse: of each, its number, those of the lane (0: the queue) and of the
-- limit there (0: `concurrency`), what that has left, and the seconds until it has room.
local function find_refusals(queue, lines, requests, at, has_permits)
  local refusals, waits = {}, {}
  for index, request in ipairs(requests) do
    local line, costs = lines[request[1]], request[2]
    -- Calls wait in one line if they come under the same limits.
    local scope = {request[1]}
    for place, cost in ipairs(costs) do
      scope[place + 1] = cost ~= 0 and 1 or 0
    end
    scope = table.concat(scope, ' ')
    if request[3] > 0 then
      local state, number, left, resets_in = find_refusal(queue, line, costs, at, not waits[scope])
      if not state and not has_permits and not waits[scope] then
        state, number, left, resets_in = queue, 0, 0, NEVER
      end
      if state then
        local found = {index, state.number or 0, number, as_text(left), as_text(resets_in)}
        for _, each in ipairs(found) do
          refusals[#refusals + 1] = each
        end
      else
        waits[scope] = true
      end
    end
  end
  return refusals
end
