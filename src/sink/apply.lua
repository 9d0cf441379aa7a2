-- Applies the plans of several users, each behind its fence, in one atomic step.
--
-- ARGV: mode ("stream" or "snapshot"), xmin, xmax, running ids (hex, comma-separated), tombstone TTL in ms,
-- then for each plan: number of its ARGV, number of its KEYS, new fence, flags, event head, event tail,
-- the position the fence must have reached first (or ""), steps.
-- KEYS: for each plan its fence, then the keys of its steps in their order.
--
-- A fence is text that compares as bytes: epoch(8) lsn(16) ordinal(8) xid(16) mark(1) watched values. Numbers are
-- fixed-width hex because Lua's lose digits above 2^53. Flags: x keep the old xid, w merge the watched values, c some
-- step asks what changed.
--
-- Reply, a line for each plan: a applied, u applied as user_update (both may be followed by the number of keys
-- of another type that were replaced), s skipped, w not tried, !CODE not done because of Redis' state,
-- ?CODE refused: the user's keys are deleted and the fence is written.
local sub, find, match, call = string.sub, string.find, string.match, redis.call
local mode, xmin, xmax, running, tombstone = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local UNKNOWN, UNLINK_CHUNK = string.rep('-', 16), 1000

local retyped, old, fence, fenced

local function failed(reply)
  return type(reply) == 'table' and reply.err
end

local function replace_type(key, reply)
  if not find(reply.err, 'WRONGTYPE', 1, true) then error(reply) end
  call('UNLINK', key)
  retyped = retyped + 1
end

local function unlink(first, last)
  while first <= last do
    local to = math.min(first + UNLINK_CHUNK - 1, last)
    call('UNLINK', unpack(KEYS, first, to))
    first = to + 1
  end
end

local function write_fence(key, value)
  if not value then
    call('UNLINK', key)
  elseif sub(value, 49, 49) == 't' then
    call('SET', key, value, 'PX', tombstone)
  else
    call('SET', key, value)
  end
end

local function read_watched(text)
  local values, count, at = {}, 0, 50
  while at <= #text do
    local colon = find(text, ':', at, true)
    local length = sub(text, at, colon - 1)
    count = count + 1
    if length == '-' then
      values[count], at = false, colon + 1
    else
      at = colon + 1 + tonumber(length)
      values[count] = sub(text, colon + 1, at - 1)
    end
  end
  return values, count
end

local function write_watched(values, count)
  local parts = {}
  for i = 1, count do
    local value = values[i]
    parts[i] = value and (#value .. ':' .. value) or '-:'
  end
  return table.concat(parts)
end

-- The new fence with what only the old one knows; and the bits of the watched values that changed.
local function merge(new, flags)
  if flags == '' and mode == 'stream' then return new, 0 end
  local position, xid, mark, watched = sub(new, 1, 32), sub(new, 33, 48), sub(new, 49, 49), sub(new, 50)
  if old then
    if find(flags, 'x', 1, true) then
      xid = sub(old, 33, 48)
      if mode == 'stream' and sub(old, 49, 49) == 't' then mark = 't' end
    end
    if mode == 'snapshot' and sub(old, 1, 32) > position then position = sub(old, 1, 32) end
  end
  local changed = 0
  -- A tombstone remembers nothing: its user is a new one.
  if not old or #old < 50 or sub(old, 49, 49) == 't' then
    changed = -1
  elseif sub(old, 50) ~= watched then
    local before, known = read_watched(old)
    local after, count = read_watched(new)
    if known > count then count = known end
    for i = 1, count do
      if after[i] and after[i] ~= before[i] then
        changed = changed + 2 ^ (i - 1)
      elseif not after[i] then
        after[i] = before[i]
      end
    end
    if find(flags, 'w', 1, true) then watched = write_watched(after, count) end
  end
  return position .. xid .. mark .. watched, changed
end

local function stopped(new)
  if not old then return false end
  if mode == 'stream' then return sub(new, 1, 32) <= sub(old, 1, 32) end
  local epoch, present = sub(old, 1, 8), sub(new, 1, 8)
  if epoch ~= present then return epoch > present end
  local xid = sub(old, 33, 48)
  local seen = xid == UNKNOWN or xid < xmin or (xid < xmax and not find(running, xid, 1, true))
  return not seen
end

local function hash(key, at, sets, removes, only_existing)
  if only_existing and call('EXISTS', key) == 0 then return end
  if sets > 0 then
    local reply = redis.pcall('HSET', key, unpack(ARGV, at, at + sets - 1))
    if failed(reply) then
      replace_type(key, reply)
      call('HSET', key, unpack(ARGV, at, at + sets - 1))
    end
  end
  if removes > 0 then
    local reply = redis.pcall('HDEL', key, unpack(ARGV, at + sets, at + sets + removes - 1))
    if failed(reply) then replace_type(key, reply) end
  end
end

-- Whether a stored balance is there and another one; a key of another type holds none.
local function differs(key, field, balance)
  local stored
  if field == '' then stored = redis.pcall('GET', key) else stored = redis.pcall('HGET', key, field) end
  return stored and not failed(stored) and stored ~= balance
end

local function apply(k, a)
  retyped, fenced = 0, false
  local new, flags = ARGV[a + 2], ARGV[a + 3]
  fence = new
  old = redis.pcall('GET', KEYS[k])
  if failed(old) then
    replace_type(KEYS[k], old)
    old = false
  end
  if ARGV[a + 6] ~= '' and (not old or sub(old, 1, 32) < ARGV[a + 6]) then return 'w' end
  if stopped(new) then return 's' end
  local changed
  fence, changed = merge(new, flags)
  local event, result = ARGV[a + 4], 'a'
  if ARGV[a + 5] ~= '' then
    local update = bit.band(changed, 1) == 0
    if update then result = 'u' end
    event = event .. (update and 'user_update' or 'balance_change') .. ARGV[a + 5]
  end
  local last = a + tonumber(ARGV[a]) - 1
  local key, at, run, wrong = k, a + 7, true, false
  while at <= last do
    local step = ARGV[at]
    if step == 'G' then
      local any, none, unequal = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), ARGV[at + 3]
      run = (any == 0 or bit.band(changed, any) ~= 0) and bit.band(changed, none) == 0
      if unequal ~= '' then run = run and wrong end
      at = at + 4
    elseif step == 'B' then
      key = key + 1
      wrong = differs(KEYS[key], ARGV[at + 1], ARGV[at + 2])
      at = at + 3
    else
      if step == 'H' or step == 'E' then
        local sets, removes = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
        key = key + 1
        if run then hash(KEYS[key], at + 3, sets, removes, step == 'E') end
        at = at + 3 + sets + removes
      elseif step == 'S' then
        key = key + 1
        if run then call('SET', KEYS[key], ARGV[at + 1]) end
        at = at + 2
      elseif step == 'T' then
        key = key + 1
        if run then call('SET', KEYS[key], ARGV[at + 1], 'PX', ARGV[at + 2]) end
        at = at + 3
      elseif step == 'D' then
        local count = tonumber(ARGV[at + 1])
        if run then unlink(key + 1, key + count) end
        key = key + count
        at = at + 2
      else
        -- Before the first publish: Redis may refuse the fence (out of memory) and then must not have published.
        if run and not fenced then
          write_fence(KEYS[k], fence)
          fenced = true
        end
        if step == 'V' then
          if run then call('PUBLISH', ARGV[at + 1], event) end
          at = at + 2
        else
          if run then call('PUBLISH', ARGV[at + 1], ARGV[at + 2]) end
          at = at + 3
        end
      end
      run = true
    end
  end
  if not fenced then write_fence(KEYS[k], fence) end
  if retyped > 0 then result = result .. retyped end
  return result
end

local function code_of(reason)
  local text = type(reason) == 'table' and reason.err or tostring(reason)
  if find(text, 'The user executing the script', 1, true) then return 'NOPERM', true end
  if find(text, 'non local key', 1, true) then return 'TRYAGAIN', true end
  local code = match(text, '(%u%u%u+) ') or 'LUA'
  return code, code ~= 'ERR' and code ~= 'LUA' and code ~= 'WRONGTYPE'
end

local function refuse(k, keys)
  unlink(k + 1, k + keys - 1)
  write_fence(KEYS[k], fence)
end

local out, k, a = {}, 1, 6
local stop = false
while a <= #ARGV do
  local keys = tonumber(ARGV[a + 1])
  local result = 'w'
  if not stop then
    local ok, reply = pcall(apply, k, a)
    result = reply
    if not ok then
      local code, passes = code_of(reply)
      result = '?' .. code
      if not passes then
        local refused, reason = pcall(refuse, k, keys)
        if not refused then code, passes = code_of(reason), true end
      end
      if passes then
        if fenced then pcall(write_fence, KEYS[k], old) end
        result = '!' .. code
        stop = true
      end
    end
  end
  out[#out + 1] = result
  k = k + keys
  a = a + tonumber(ARGV[a])
end
return out
