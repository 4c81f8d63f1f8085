-- What is read back from the server. Whoever may write these keys may write anything there, and one
-- wrong figure could stop everybody, or nobody, without a word. So a figure that no aioapiqueue
-- writes ends the script before anything is granted, and redis.py makes a SharedError of it.
-- The first part of a script that goes on in gcra_limits.lua and gcra.lua.

local NEVER, ALWAYS = math.huge, -math.huge
local LATEST = 2 ^ 53     -- no instant is later: doubles count whole microseconds until then
local HUGE = 1e300        -- no interval, burst or cost is more
local YEAR = 366 * 86400e6  -- no slot is given out, and no place kept, for longer ahead than that

local now                 -- gcra.lua sets it before anything else

local function refuse(key, field, text)
  local shown = string.gsub(string.sub(text, 1, 40), '[^\32-\126]', '?')
  error(string.format('UNREADABLE %s has %s "%s" UNREADABLE', key, field, shown), 0)
end

-- Return what `text` says, or `default` where there is none.
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
  local one, two, three = string.match(text, '^(%S+):(%S+):(%S+)$')
  if not three then
    refuse(key, field, text)
  end
  return one, two, three
end

-- The fields of a hash, and a function that reads the figure of one.
local function hash(key)
  local fields, flat = {}, redis.call('HGETALL', key)
  for index = 1, #flat, 2 do
    fields[flat[index]] = flat[index + 1]
  end
  return fields, function(field, default, least, most)
    return figure(key, field, fields[field], default, least, most)
  end
end
