-- Budgets, which never recover, and reservations: of calls that have started, and have neither ended
-- nor settled. _limits/raising.py gives the reasons; comments here explain the differences.
-- The sixth part of the script: gcra_answers.lua comes before it, gcra_states.lua after.
--
-- Each process reports with every message what is reserved in its lanes (the costs of its running
-- calls and unused slots), so that no lost message leaves a reservation behind. What it is granted
-- afterwards is added here. A process that is silent for `lease` has no reservations: nothing waits
-- for them any more, but what they were charged stays spent.
--
-- A budget never recovers what is lost with a reply. So what each message was granted is noted with
-- the number of that message (`sequence`). If the next message of that process shows that the reply
-- never arrived (`answered`), it is taken back. A message that arrives after a later one of its
-- process is granted nothing: the process no longer waits for the reply.
--
-- Replies say how much of a budget is reserved. To add that up for each reply would take ten times as
-- long as all the rest, with a hundred processes. So the sum is kept with the budget, and each message
-- changes it by what its own process reports. It is added up again once in each `lease`, because the
-- reservations of a dead process end without a message.

local MONEY, BILLIONTHS = 'usd', 1e9  -- as in cost_units.py
local RESERVED_FOR = 86400e6  -- a call that runs for longer than this is no reservation any more
local MOST_GONE = 100  -- silent processes that may get back what they were granted in a lost reply

local function rounding(amount)  -- fractions do not add up exactly; but never a whole call
  return math.min(0.5, ROUNDING * amount)
end

local Budget = {}

-- Return an amount in the parts that are counted: of money whole billionths, which a double holds
-- exactly up to 9 million.
function Budget.parts(budget, amount)
  return budget.scale == 1 and amount or math.floor(amount * budget.scale + 0.5)
end

function Budget.fits(budget, cost)
  local after = budget.spent + Budget.parts(budget, cost)
  return after <= budget.most + (budget.scale > 1 and 0 or rounding(budget.most))
end

function Budget.on_idle() end

function Budget.next_at(budget, _, cost)
  return Budget.fits(budget, cost) and ALWAYS or NEVER
end

function Budget.consume(budget, _, cost)
  budget.spent = budget.spent + Budget.parts(budget, cost)
  return NEVER
end

function Budget.adjust(budget, at, cost, charged)
  -- After a loss of data, what was charged before has not been counted here.
  if cost < 0 and at < read_queue('epoch', now, 1, LATEST / 2) then
    return
  end
  local more = Budget.parts(budget, charged + cost) - Budget.parts(budget, charged)
  budget.spent = math.max(0, budget.spent + more)
end

function Budget.leaves_room(budget, _, cost, held)
  return Budget.fits(budget, cost + held)
end

function Budget.idle_at()
  return ALWAYS  -- what was spent keeps a state from expiring: see `save`
end

-- Not divided among the processes: the last of them may need all of it.
function Budget.room()
  return NEVER
end

function Budget.left(budget)
  return math.max(0, budget.most - budget.spent) / budget.scale
end

function Budget.counts_like(budget, read, at)
  return read(at .. 'b', nil, 0, HUGE) == budget.amount
end

function Budget.load(budget, read, at)
  budget.scale = budget.unit == MONEY and BILLIONTHS or 1
  budget.most = budget.amount
  if budget.scale > 1 then
    budget.most = math.floor(budget.amount * budget.scale + 0.0005)
  end
  budget.spent = read(at .. 's', 0, 0, HUGE)
  read(at .. 'b', nil, 0, HUGE)
  -- What is reserved by all processes, and when that was added up.
  budget.reserved = read(at .. 'r', nil, 0, HUGE)
  budget.summed_at = read(at .. 't', ALWAYS, nil, now + YEAR)
  budget.raises = true
end

-- As of a bucket: when what was spent was charged is not known.
function Budget.charges_of(read, at)
  local spent = read(at .. 's', 0, 0, HUGE)
  if string.find(at, '[' .. MONEY .. ']', 1, true) then
    spent = spent / BILLIONTHS
  end
  return spent > 0 and {{now, spent}} or {}
end

-- Not the sum: both may have counted the same calls.
function Budget.take_over(budget, charges)
  local sum = 0
  for _, charge in ipairs(charges) do
    if not charge[3] or charge[3] > now then
      sum = sum + charge[2]
    end
  end
  budget.spent = math.max(budget.spent, Budget.parts(budget, sum))
end

function Budget.save(budget, set, at)
  set(at .. 's', budget.spent, HUGE)
  set(at .. 'b', budget.amount, HUGE)
  set(at .. 'r', budget.reserved, HUGE)
  set(at .. 't', budget.summed_at)
end

-- The reservations of a state, by process: "sequence unit=reserved=lent ...". `lent` is what the
-- message with that number was granted.

local function read_reservations(key, text)
  local sequence, rest = string.match(text, '^(%S+)(.*)$')
  if not rest then
    refuse(key, 'reservations', text)
  end
  local found = {reserved = {}, lent = {}}
  found.sequence = figure(key, 'reservations', sequence, nil, 0)
  for part in string.gmatch(rest, '%S+') do
    local unit, reserved, lent = string.match(part, '^([^=]+)=([^=]+)=([^=]+)$')
    if not lent then
      refuse(key, 'reservations', part)
    end
    found.reserved[unit] = figure(key, 'reservations', reserved, nil, 0, HUGE)
    found.lent[unit] = figure(key, 'reservations', lent, nil, 0, HUGE)
  end
  return found
end

-- Return whether a process may have lost what it was granted: if it comes back, so does that.
local function has_lent(found)
  for _, lent in pairs(found.lent) do
    if lent > 0 then
      return true
    end
  end
  return false
end

local is_late = false  -- whether a later message of this process has arrived before this one

-- Note what this process has reserved, and take back what it was granted in a reply that was lost.
local function load_reservations(state, spec)
  state.reserved_key, state.reported = KEYS[spec.reserved_key], spec.reserved
  local text = redis.call('HGET', state.reserved_key, sender)
  local known = text and read_reservations(state.reserved_key, text)
  state.reported_before = known and known.reserved or {}
  if not known then
    return
  elseif payload.sequence < known.sequence then
    is_late = true
  elseif payload.answered < known.sequence then
    for _, limit in ipairs(state.limits) do
      local lent = known.lent[limit.unit or 'calls']
      if limit.kind == 'b' and lent then
        limit.spent = math.max(0, limit.spent - limit:parts(lent))
      end
    end
  end
end

local function save_reservations(state)
  if verb == 'leave' then
    redis.call('HDEL', state.reserved_key, sender)
  elseif not is_late then
    local parts = {string.format('%.0f', payload.sequence)}
    for place, unit in ipairs(names) do
      local lent = state.leased[place] or 0
      local reserved = math.max(0, state.reported[place] or 0) + lent
      if reserved > 0 then
        parts[#parts + 1] = string.format('%s=%.17g=%.17g', unit, reserved, lent)
      end
    end
    redis.call('HSET', state.reserved_key, sender, table.concat(parts, ' '))
    expire(state.reserved_key, now + RESERVED_FOR)
  end
end

-- Return what this process has reserved of a unit in a state.
local function own_in(state, place)
  return (state.reported[place] or 0) + (state.leased[place] or 0)
end

-- Return what is reserved of a unit in a state, by all processes that live.
local function reserved_in(state, place, processes_key)
  local sum = own_in(state, place)
  local processes = other_processes(processes_key)
  if not state.others then
    state.others = {}
    local gone = 0
    for process, text in pairs((hash(state.reserved_key))) do
      local its, found = processes[process], read_reservations(state.reserved_key, text)
      if process ~= sender and not its then
        gone = gone + (has_lent(found) and 1 or 0)
        if gone > MOST_GONE or not has_lent(found) then  -- else each process that was killed stays
          redis.call('HDEL', state.reserved_key, process)
        end
      elseif process ~= sender and its and its.at > now - math.min(payload.lease, YEAR) then
        state.others[#state.others + 1] = found.reserved
      end
    end
  end
  for _, reserved in ipairs(state.others) do
    sum = sum + (reserved[names[place]] or 0)
  end
  return sum
end

-- Find out how much of a budget is reserved by all processes.
local function sum_reserved(state, budget, processes_key)
  if state.others or now >= budget.summed_at + math.min(payload.lease, YEAR) then
    budget.reserved, budget.summed_at = reserved_in(state, budget.place, processes_key), now
  else
    local before = state.reported_before[names[budget.place]] or 0
    local sum = (budget.reserved or 0) - before + own_in(state, budget.place)
    budget.reserved = math.max(0, sum)
  end
end

-- Add what is charged to each budget of a state, and how much of that is reserved. Of calls, nothing
-- is: what they cost is known.
local function add_uses(figures, state, processes_key)
  for _, limit in ipairs(state.limits) do
    if limit.kind == 'b' then
      if limit.place ~= CALLS and not is_late then
        sum_reserved(state, limit, processes_key)
      end
      figures[#figures + 1] = as_text(limit.spent / limit.scale)
      figures[#figures + 1] = as_text(limit.reserved or 0)
    end
  end
end
