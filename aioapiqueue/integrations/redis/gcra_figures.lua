-- Reading and writing figures, and the clock.
-- The first part of the script; gcra_limits.lua comes after. See gcra.lua for the whole.
--
-- Any program that may write these keys may write anything there, and one wrong figure could stop
-- all calls, or pass all of them, without an error. So a figure that aioapiqueue never writes ends
-- the script before anything is granted; _transport.py turns that into a SharedError.

local NEVER, ALWAYS = math.huge, -math.huge
local LATEST = 2 ^ 53     -- no instant is later: doubles count whole microseconds until then
local HUGE = 1e300        -- no interval, burst or cost is higher
local YEAR = 366 * 86400e6  -- no slot is granted, and no permit kept, for longer than this

local function refuse(key, field, text)
  -- Shortened, and printable: another program may have written it.
  local shown = string.gsub(string.sub(text, 1, 40), '[^\32-\126]', '?')
  error(string.format('UNREADABLE %s has %s "%s" UNREADABLE', key, field, shown), 0)
end

-- Return the figure in `text`; `default` if it is nil.
local function figure(key, field, text, default, least, most)
  if not text then
    return default
  end
  local value = tonumber(text)
  -- Written like this, NaN is refused, too: every comparison with it is false.
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

-- Return the fields of a hash, a function that reads the figure in one of them, and the figures
-- that have been read, by field. One HGETALL, as a state needs most of its fields.
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

-- Tables of figures that are stored as they are: {field, name here, default, least, most} each.

-- Return the names of fields with a prefix. Kept, as dozens of lanes have the same ones.
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

-- Two versions that store different keys, or use them differently, would break each other's limits.
-- So each refuses the keys of the other. The first edition knows no layouts: it reads the clock
-- from `seen`, finds no figure there, and refuses, too.
local LAYOUT = 10  -- raised whenever the keys, or the use of them, change
local MARK = 'another version of aioapiqueue'

-- The clock of this quota never goes back. If the server's does (its time is set, or a replica
-- takes over), the difference is added from then on, as `skew`: instants in the keys stay
-- comparable.
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

-- Return a figure for a reply, which has no fractions otherwise.
local function as_text(figure)
  return figure == ALWAYS and '-inf' or figure == NEVER and 'inf' or string.format('%.17g', figure)
end

local function expire(key, at)
  -- PEXPIRE refuses what is too late, and would end the script after it has written.
  redis.call('PEXPIRE', key, string.format('%.0f', math.ceil((math.min(at, LATEST) - now) / 1000)))
end
