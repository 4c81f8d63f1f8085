-- The first part of a script: what is read back from the server, and its clock. It goes on in
-- gcra_limits.lua, gcra_answers.lua, gcra_states.lua, gcra_decisions.lua and gcra.lua.
--
-- Everybody who may write these keys may write anything there, and one wrong figure could stop all
-- calls, or none, without a word. So a figure that no aioapiqueue writes ends the script before
-- anything is granted; _transport.py makes a SharedError of it.

local NEVER, ALWAYS = math.huge, -math.huge
local LATEST = 2 ^ 53     -- no instant is later: doubles count whole microseconds until then
local HUGE = 1e300        -- no interval, burst or cost is more
local YEAR = 366 * 86400e6  -- no slot is granted, and no permit kept, for longer ahead than that

local function refuse(key, field, text)
  local shown = string.gsub(string.sub(text, 1, 40), '[^\32-\126]', '?')
  error(string.format('UNREADABLE %s has %s "%s" UNREADABLE', key, field, shown), 0)
end

-- Return the figure in `text`, or `default` where there is none.
local function figure(key, field, text, default, least, most)
  if not text then
    return default
  end
  local value = tonumber(text)
  -- So written, NaN is refused too.
  if not (value and value >= (least or -LATEST) and value <= (most or LATEST)) then
    refuse(key, field, text)
  end
  return value
end

-- Return the three parts of "one:two:three".
local function split(key, field, text)
  local one, two, three = string.match(text, '^([^:]+):([^:]+):([^:]+)$')
  if not three then
    refuse(key, field, text)
  end
  return one, two, three
end

-- Return the fields of a hash, a function that reads the figure of one, and the figures read so far.
local function hash(key)
  local fields, figures, flat = {}, {}, redis.call('HGETALL', key)
  for index = 1, #flat, 2 do
    fields[flat[index]] = flat[index + 1]
  end
  return fields, function(field, default, least, most)
    local text = fields[field]
    if not text then
      return default
    end
    local value = figure(key, field, text, default, least, most)
    figures[field] = value
    return value
  end, figures
end

-- Figures that are kept as they are: {field, name here, default, least, most} each.

-- Return the fields behind a prefix; dozens of lanes have the same.
local function fields_behind(at, kept)
  local names = kept[at]
  if not names then
    names = {}
    for index, each in ipairs(kept) do
      names[index] = at .. each[1]
    end
    kept[at] = names
  end
  return names
end

local function load_figures(object, kept, read, at)
  local names = fields_behind(at, kept)
  for index, each in ipairs(kept) do
    object[each[2]] = read(names[index], each[3], each[4], each[5])
  end
end

local function save_figures(object, kept, set, at)
  local names = fields_behind(at, kept)
  for index, each in ipairs(kept) do
    set(names[index], object[each[2]], each[5])
  end
end

-- Versions whose keys, or whose script, differ would never keep one quota each. The first edition
-- knows no layouts: it reads `seen`, which had the clock, finds no figure there, and refuses, too.
local LAYOUT = 7  -- another one whenever keys, or what is done with them, change
local MARK = 'another version of aioapiqueue'

-- The clock never goes back: of a server's that does, the difference is added from then on.
local queue_fields, read_queue = hash(KEYS[1])
local layout = read_queue('layout', queue_fields.epoch and 1 or LAYOUT, 1)
if layout ~= LAYOUT then
  return {'version', layout, LAYOUT}
end
local skew, seen = read_queue('skew', 0, 0, LATEST / 2), read_queue('clock', ALWAYS, 0, LATEST / 2)
local now = tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1e6 + tonumber(time[2])
end
skew = skew + math.max(0, seen - (now + skew))
now = now + skew

local function expire(key, at)
  redis.call('PEXPIRE', key, string.format('%.0f', math.ceil((math.min(at, LATEST) - now) / 1000)))
end
