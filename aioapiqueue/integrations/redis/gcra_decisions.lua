-- The decisions of users, merged as in _shared/decisions.py: of each key the limits that were set
-- last, the latest resume, and the pauses after it. The result does not depend on the order of
-- arrival. Holds are kept in the state of what they hold, and only ever extended: see `load`. The
-- ninth part of the script: gcra_refusals.lua comes before it, gcra.lua after.
--
-- `rev` is the revision of all decisions: a random number, a new one after each change. A process
-- with another revision lacks a decision, or knows one that this server does not. It is sent the
-- decisions here, and its message is not processed until it has sent its own. A counter would not
-- do: a server that has lost its latest changes (in a failover), or all, would use numbers twice.
--
-- `conf` is JSON: the last revisions, the latest last, and the decisions. All of them are strings,
-- as cjson rounds numbers: {kind, key, instant of the stamp, its maker, limits or end, revision
-- that brought it}.

local revision = read_queue('rev', 0, 0, LATEST / 2)
if revision % 1 > 0 or revision > 0 and not queue_fields.conf then
  -- If process and script read a revision differently, they would exchange decisions for ever.
  refuse(KEYS[1], queue_fields.conf and 'rev' or 'no conf, but rev', queue_fields.rev)
end

-- For a process with another revision, return the reply with the decisions that it lacks. Otherwise
-- merge its decisions, and return the end of all pauses, and whether one of its decisions was
-- outdated or had its stamp changed. Helpers are inside: each function costs time when a script
-- runs, even if it is not called, and most messages need none of these.
local function exchange()
  local MOST_AHEAD = 60e6   -- as in _shared/redis/known_decisions.py
  local MOST_SET = 10000    -- as in _shared/decisions.py
  local REVISIONS = 32      -- a process that had one of the last ones is sent only newer decisions
  local KIND, KEY, AT, MAKER, VALUE, SINCE = 1, 2, 3, 4, 5, 6

  local function end_of(pause)
    return pause[VALUE] == 'inf' and NEVER or tonumber(pause[VALUE])
  end

  -- Return the last revisions, and all decisions; nil if they are unreadable.
  local function read_decisions()
    if revision == 0 then
      return {}, {}
    end
    local function is_readable(one)
      if type(one) ~= 'table' then
        return false
      end
      for part = KIND, SINCE do
        if type(one[part]) ~= 'string' then
          return false
        end
      end
      return tonumber(one[AT]) and (one[KIND] ~= 'pause' or end_of(one))
    end
    local done, read = pcall(cjson.decode, queue_fields.conf)
    if not done or type(read) ~= 'table'
      or type(read[1]) ~= 'table' or type(read[2]) ~= 'table' then
      return nil
    end
    for _, one in ipairs(read[1]) do
      if type(one) ~= 'string' then
        return nil
      end
    end
    for _, one in ipairs(read[2]) do
      if not is_readable(one) then
        return nil
      end
    end
    return read[1], read[2]
  end

  if payload.revision ~= revision then
    local revisions, decisions = read_decisions()
    local place, text = {}, revision > 0 and queue_fields.conf or ''
    for number, each in ipairs(revisions or {}) do
      place[each] = number
    end
    local from = place[string.format('%.0f', payload.revision)]
    if from then
      local newer = {}
      for _, one in ipairs(decisions) do
        if (place[one[SINCE]] or 0) > from then
          newer[#newer + 1] = one
        end
      end
      -- cjson encodes an empty table as an object, not as an array.
      text = #newer > 0 and cjson.encode({{'0'}, newer}) or ''
    end
    -- A process without any decision lacks nothing here except what it is about to send: then there
    -- is nothing to compare as a whole.
    local knew = from or payload.revision == 0
    return {'differing', now, revision, knew and 0 or 1, text}
  end

  -- Return whether a stamp is later than another: by bytes, whatever the server's locale.
  local function is_later(one, other)
    local at, its = tonumber(one[AT]), tonumber(other[AT])
    if at ~= its then
      return at > its
    end
    local mine, theirs = one[MAKER], other[MAKER]
    for place = 1, math.min(#mine, #theirs) do
      local byte, their = string.byte(mine, place), string.byte(theirs, place)
      if byte ~= their then
        return byte > their
      end
    end
    return #mine > #theirs
  end

  local function is_same(one, other)
    return one[MAKER] == other[MAKER] and tonumber(one[AT]) == tonumber(other[AT])
  end

  -- By kind: merge a decision; return whether it changes what holds, and whether a later one outdates it.
  local Known = {}

  function Known.pause(known, one)
    if known.resume and not is_later(one, known.resume) then
      return false, true
    end
    local rest = {}
    for _, other in ipairs(known.pauses) do
      local later = is_later(other, one)
      if is_same(one, other) then
        return false, false
      elseif later and end_of(other) >= end_of(one) then
        return false, true
      elseif later or end_of(other) > end_of(one) then
        rest[#rest + 1] = other
      end  -- else `one` replaces it: it is later, and ends no earlier
    end
    rest[#rest + 1], known.pauses = one, rest
    return true, false
  end

  function Known.resume(known, one)
    local other = known.resume
    if other and not is_later(one, other) then
      return false, not is_same(one, other)
    end
    local rest = {}
    for _, pause in ipairs(known.pauses) do
      if is_later(pause, one) then
        rest[#rest + 1] = pause
      end
    end
    known.resume, known.pauses = one, rest
    -- News even if it ends no pause: an earlier pause may yet arrive.
    return true, false
  end

  function Known.set(known, one)
    local other = known.sets[one[KEY]]
    if other and not is_later(one, other) then
      return false, not is_same(one, other)
    end
    known.sets[one[KEY]] = one
    -- The same limits again, as when many processes learn them, change nothing for any process.
    local changed = not other or one[VALUE] ~= other[VALUE]
    if not changed then
      one[SINCE] = other[SINCE]
    end
    return changed, false
  end

  local function forget_earliest(known)
    local sets = {}
    for _, one in pairs(known.sets) do
      sets[#sets + 1] = one
    end
    if #sets > MOST_SET then
      table.sort(sets, is_later)
      for place = MOST_SET + 1, #sets do
        known.sets[sets[place][KEY]] = nil
      end
    end
  end

  local function as_list(known)
    local list = {known.resume}
    for _, pause in ipairs(known.pauses) do
      if end_of(pause) > now then
        list[#list + 1] = pause
      end
    end
    for _, one in pairs(known.sets) do
      list[#list + 1] = one
    end
    return list
  end

  local revisions, before = read_decisions()
  if not revisions then
    refuse(KEYS[1], 'conf', queue_fields.conf)
  end
  local known, latest = {sets = {}, pauses = {}}, now
  for _, one in ipairs(before) do
    if Known[one[KIND]] then
      Known[one[KIND]](known, one)
    end
  end
  local changed, outdated, token = false, false, string.format('%.0f', payload.token)
  for _, one in ipairs(payload.decisions) do
    -- A stamp far ahead, from before this server's clock was set back: no later decision could
    -- replace it.
    if tonumber(one[AT]) > now + MOST_AHEAD then
      latest = latest + 1  -- keeps their order
      one[AT], outdated = string.format('%.0f', latest), true
    end
    one[SINCE] = token
    local has_effect, too_late = Known[one[KIND]](known, one)
    changed, outdated = changed or has_effect, outdated or too_late
  end
  forget_earliest(known)
  local list, paused_until = as_list(known), ALWAYS
  for _, pause in ipairs(known.pauses) do
    paused_until = math.max(paused_until, end_of(pause))
  end
  if changed then
    revision = payload.token
    revisions[#revisions + 1] = token
    if #revisions > REVISIONS then
      table.remove(revisions, 1)
    end
  end
  if revision > 0 then
    -- An empty list becomes an object, which both sides read like a list.
    queue_fields.conf = cjson.encode({revisions, list})
  end
  return paused_until, outdated
end

if payload.revision ~= revision then
  return exchange()
end
